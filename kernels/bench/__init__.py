"""Measurements: what the compiler makes of the kernels, and how fast every backend of an op runs."""
