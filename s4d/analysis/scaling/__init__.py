"""How a step's rate grows with the number of ranks: points to measure, efficiency, a picture."""
