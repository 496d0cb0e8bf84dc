"""What a run takes on a cluster, computed before it starts: memory, time, messages, and what limits them."""
