"""The runs of a dataset's folds as one result: mean, sample standard deviation and pooled samples, as tables."""
