"""The recalls of classes under resampling of the test samples within their true classes.

A test set's class sizes are its maker's choice, so a draw keeps them and no draw loses a class. Both UAR and WAR are
then weighted means of the recalls, and a draw is one product of its sample counts with who was right where.

Letters: n samples, K classes, R rows (classifiers, or differences between two), D draws.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Cells of the table of counts that one chunk of draws may hold: 32 MiB of float64.
_CELLS = 1 << 22


def recalls_of(rows: NDArray[np.float64], labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Mean of each row of `rows` (R, n) over each class, (R, K); NaN for a class without samples."""
    support = np.bincount(labels, minlength=classes)
    sums = np.stack([np.bincount(labels, weights=row, minlength=classes) for row in rows])
    return sums / np.where(support > 0, support, np.nan)


def recall_draws(
    rows: NDArray[np.float64], labels: NDArray[np.int64], classes: int, *, draws: int, seed: int
) -> NDArray[np.float64]:
    """`recalls_of` under resampling, (D, R, K); all rows see the same draws."""
    if draws < 1:
        raise ValueError(f"draws: expected at least 1, got {draws}")
    generator = np.random.default_rng(seed)
    table = np.full((draws, len(rows), classes), np.nan)
    for number in range(classes):
        of_class = rows[:, labels == number]
        size = of_class.shape[1]
        chunk = max(1, _CELLS // max(size, 1))
        for begin in range(0, draws if size else 0, chunk):
            count = min(chunk, draws - begin)
            table[begin : begin + count, :, number] = _counts(generator, count, size) @ of_class.T / size
    return table


def uar_of(recalls: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the classes (..., K) that have samples."""
    present: NDArray[np.bool_] = ~np.isnan(recalls).reshape(-1, recalls.shape[-1])[0]
    return recalls[..., present].mean(-1)


def war_of(recalls: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over classes (..., K) weighted by their samples: plain accuracy."""
    support = np.bincount(labels, minlength=recalls.shape[-1])
    present = support > 0
    return recalls[..., present] @ (support[present] / support.sum())


def _counts(generator: np.random.Generator, draws: int, size: int) -> NDArray[np.float64]:
    """How often each of `size` samples is in each of `draws` resamples, (draws, size)."""
    chosen = generator.integers(size, size=(draws, size)) + np.arange(draws)[:, None] * size
    return np.bincount(chosen.ravel(), minlength=draws * size).reshape(draws, size).astype(np.float64)
