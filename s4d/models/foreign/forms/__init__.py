"""Public forms of checkpoints, one file each: how its tensors become ours. `table` has a row for every form."""
