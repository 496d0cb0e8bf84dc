"""What one recipe gains over another when each was trained with several seeds and tested on the same samples.

Seeds and samples are crossed: all seeds meet the same samples. A draw takes samples, which moves the mean over all
seeds, and seeds, which moves the mean on all samples; the two moves are added. Taking both at once in one table would
count a single seed's luck with single samples three times over, and hide gains that are there.
A handful of seeds resampled as they are spreads too little: their variance comes out (S - 1) / S of what it should be,
and its own uncertainty is left out. The move of the seeds is therefore stretched by t / z * sqrt(S / (S - 1)), with the
quantiles of Student's t for S - 1 degrees of freedom and of the normal distribution: with many seeds it is 1, and
where only seeds vary the interval is about the usual t interval.

Letters: S seeds, n samples, K classes, D draws.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from s4d.statistics.bootstrap import LEVEL
from s4d.statistics.recall_draws import recall_draws, recalls_of
from s4d.statistics.score_intervals import ScoreIntervals, checked_labels, gain_rows, intervals_of

# More than elsewhere: both ends of an interval that decides what is kept should not move with the seed of the draws.
DRAWS = 10_000


def hierarchical_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike,
    *,
    classes: int,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> ScoreIntervals:
    """Mean gain over seeds of the second's predicted class numbers (S, n) over the first's (S, n).

    Row s of both is the same training seed. ValueError with fewer than two seeds: one says nothing about others.
    """
    true = checked_labels(labels, classes)
    before, after = np.asarray(first), np.asarray(second)
    if before.shape != after.shape or before.ndim != 2 or len(before) < 2:
        raise ValueError(
            f"first, second: expected predictions (seeds, samples) of the same two or more seeds, "
            f"got shapes {before.shape} and {after.shape}"
        )
    rows = gain_rows(before, after, true, classes)
    seeds, by_seed = len(rows), recalls_of(rows, true, classes)
    gain = by_seed.mean(0)
    by_samples = recall_draws(rows.mean(0)[None], true, classes, draws=draws, seed=seed)[:, 0]
    times_drawn = np.random.default_rng([seed, 1]).multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    moved_by_seeds = times_drawn / seeds @ by_seed - gain
    return intervals_of(gain, by_samples + stretch(seeds, level) * moved_by_seeds, true, level)


def stretch(seeds: int, level: float) -> float:
    """By how much a resampled mean of a few seeds must deviate more, to be as uncertain as a t interval says."""
    from scipy.stats import norm, t

    tail = (1 + level) / 2
    return float(t.ppf(tail, seeds - 1) / norm.ppf(tail)) * math.sqrt(seeds / (seeds - 1))
