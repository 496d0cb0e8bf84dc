"""A trained classifier at work on somebody's own pictures and videos: emotion of the whole and over time."""
