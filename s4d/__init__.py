"""S4D: one vision transformer for static and dynamic facial expressions."""

__version__ = "0.1.0"
