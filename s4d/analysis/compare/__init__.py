"""Is the working tree slower than a revision: both measured in turn, judged by the ratios of neighbouring rounds."""
