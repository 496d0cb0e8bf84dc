"""The bootstrap of any statistic of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s4d.statistics.interval import Interval, percentile_interval

DRAWS = 2000
LEVEL = 0.95


def bootstrap_interval(
    statistic: Callable[..., float],
    arrays: Sequence[NDArray[np.generic]],
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
    strata: ArrayLike | None = None,
) -> Interval:
    """Percentile interval of `statistic(*arrays)`, the arrays resampled together along their first axis.

    With `strata` (n,), a group for each sample, every draw keeps the size of each group: give the labels for a
    statistic that averages over classes. ValueError for arrays of unequal or no length.
    """
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"arrays: expected one length above 0, got {sorted(lengths)}")
    if draws < 1:
        raise ValueError(f"draws: expected at least 1, got {draws}")
    length = lengths.pop()
    groups = _groups(length, strata)
    generator = np.random.default_rng(seed)
    drawn = np.empty(draws)
    for draw in range(draws):
        chosen = np.concatenate([group[generator.integers(len(group), size=len(group))] for group in groups])
        drawn[draw] = statistic(*(array[chosen] for array in arrays))
    return percentile_interval(statistic(*arrays), drawn, level)


def _groups(length: int, strata: ArrayLike | None) -> list[NDArray[np.int64]]:
    if strata is None:
        return [np.arange(length)]
    names = np.asarray(strata)
    if names.shape != (length,):
        raise ValueError(f"strata: expected {length} groups, got shape {names.shape}")
    return [np.flatnonzero(names == name) for name in np.unique(names)]
