"""Look at every file of a manifest once and keep what was seen, a line per file, for later checks."""
