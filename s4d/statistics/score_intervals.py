"""Intervals of UAR, WAR and recalls: of one classifier, or of what a second gains over a first on the same samples.

Letters: n samples, K classes, D draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s4d.statistics.bootstrap import DRAWS, LEVEL
from s4d.statistics.interval import Interval, percentile_interval
from s4d.statistics.recall_draws import recall_draws, recalls_of, uar_of, war_of


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreIntervals:
    """Scores, or gains in them; `recall` has one entry per class, None for a class without samples."""

    uar: Interval
    war: Interval
    recall: tuple[Interval | None, ...]

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Plain values for JSON, recalls by class name."""
        recall = {
            name: None if interval is None else interval.to_dict()
            for name, interval in zip(classes, self.recall, strict=True)
        }
        return {"uar": self.uar.to_dict(), "war": self.war.to_dict(), "recall": recall}


def uar(labels: ArrayLike, predictions: ArrayLike, classes: int) -> float:
    """Mean recall of predicted class numbers (n,) over the classes that have samples."""
    true = checked_labels(labels, classes)
    return float(uar_of(recalls_of(correct_rows(np.asarray(predictions)[None], true, classes), true, classes))[0])


def score_intervals(
    labels: ArrayLike, predictions: ArrayLike, classes: int, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> ScoreIntervals:
    """Scores of predicted class numbers (n,), with intervals from resampling within the true classes."""
    true = checked_labels(labels, classes)
    rows = correct_rows(np.asarray(predictions)[None], true, classes)
    drawn = recall_draws(rows, true, classes, draws=draws, seed=seed)
    return intervals_of(recalls_of(rows, true, classes)[0], drawn[:, 0], true, level)


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike,
    *,
    classes: int,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> ScoreIntervals:
    """What the second's predicted class numbers (n,) gain over the first's (n,): each draw takes a sample from both."""
    true = checked_labels(labels, classes)
    rows = gain_rows(np.asarray(first)[None], np.asarray(second)[None], true, classes)
    drawn = recall_draws(rows, true, classes, draws=draws, seed=seed)
    return intervals_of(recalls_of(rows, true, classes)[0], drawn[:, 0], true, level)


def intervals_of(
    recalls: NDArray[np.float64], drawn: NDArray[np.float64], labels: NDArray[np.int64], level: float
) -> ScoreIntervals:
    """Intervals from measured recalls (K,) and resampled ones (D, K)."""
    return ScoreIntervals(
        uar=percentile_interval(float(uar_of(recalls)), uar_of(drawn), level),
        war=percentile_interval(float(war_of(recalls, labels)), war_of(drawn, labels), level),
        recall=tuple(
            None if np.isnan(value) else percentile_interval(value, drawn[:, number], level)
            for number, value in enumerate(recalls)
        ),
    )


def gain_rows(
    first: NDArray[np.int64], second: NDArray[np.int64], labels: NDArray[np.int64], classes: int
) -> NDArray[np.float64]:
    """1 where only the second of predictions (R, n) is right, -1 where only the first is, else 0."""
    return correct_rows(second, labels, classes) - correct_rows(first, labels, classes)


def correct_rows(predictions: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """1 where a prediction of (R, n) is right, else 0; ValueError for another shape or an unknown class."""
    if predictions.ndim != 2 or predictions.shape[1] != len(labels):
        raise ValueError(f"predictions: expected {len(labels)} a row, got shape {predictions.shape}")
    _check_numbers("predictions", predictions, classes)
    return (predictions == labels).astype(np.float64)


def checked_labels(labels: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Class numbers (n,) as an array; ValueError for none, another shape or an unknown class."""
    true = np.asarray(labels)
    if true.ndim != 1 or not true.size:
        raise ValueError(f"labels: expected at least one class number, got shape {true.shape}")
    _check_numbers("labels", true, classes)
    return true


def _check_numbers(name: str, values: NDArray[np.int64], classes: int) -> None:
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{name}: expected class numbers, got {values.dtype}")
    if values.size and not 0 <= values.min() <= values.max() < classes:
        raise ValueError(f"{name}: expected classes 0..{classes - 1}, got {values.min()}..{values.max()}")
