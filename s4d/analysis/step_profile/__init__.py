"""Where the time of a training step goes: marks around its parts, the trace read back, and what comes of it."""
