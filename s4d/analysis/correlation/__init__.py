"""How static and dynamic expression recognition relate inside one model, and between models of one or both."""
