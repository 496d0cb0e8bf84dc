"""Features of every sample of manifests, in files that other programs read."""
