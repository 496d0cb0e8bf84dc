"""(e) Do both tasks confuse the same classes? Correlations of what the two heads predict, on the shared classes.

Letters: n samples, S shared classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from s4d.analysis.correlation.classes import class_permutations, share_as_large
from s4d.statistics import Interval, bootstrap_interval

Floats = NDArray[np.float64]
# Differences below this are rounding: a flat distribution has no correlation with anything.
FLAT = 1e-9
KINDS = ("pearson", "spearman")


def correlations(first: Floats, second: Floats) -> Floats:
    """Pearson correlation of each row of (n, S) with the same row of the other side, (n,); NaN where a row is flat."""
    x, y = (side - side.mean(1, keepdims=True) for side in (first, second))
    lengths = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    defined = (lengths[0] > FLAT) & (lengths[1] > FLAT)
    values = (x * y).sum(1) / np.where(defined, lengths[0] * lengths[1], 1.0)
    return np.where(defined, values, np.nan)


def rank_correlations(first: Floats, second: Floats) -> Floats:
    """Spearman correlation of each row; equal values have their mean rank."""
    return correlations(rankdata(first, axis=1), rankdata(second, axis=1))


MEASURES = dict(zip(KINDS, (correlations, rank_correlations), strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixCorrelation:
    """Mean predicted distributions (S, S) by true class of both tasks, and how the tables correlate.

    `entries` are correlations over all S x S entries by kind, `beside` over those off the diagonal (the confusions);
    `p_value` the share of orders of the classes (of rows and columns alike) under which `beside` would be as large. A
    correlation is None where one side does not vary.
    """

    classes: tuple[str, ...]
    static: Floats
    dynamic: Floats
    entries: dict[str, float | None]
    beside: dict[str, float | None]
    p_value: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "classes": list(self.classes),
            "static": self.static.tolist(),
            "dynamic": self.dynamic.tolist(),
            "all_entries": self.entries,
            "off_diagonal": self.beside,
            "off_diagonal_p_value": self.p_value,
        }


def mean_distributions(probabilities: Floats, numbers: NDArray[np.int64], classes: int) -> Floats:
    """Mean of the predicted distributions (n, S) of each true class, (S, S); every class must have a sample."""
    return np.array([probabilities[numbers == number].mean(0) for number in range(classes)])


def correlate_tables(static: Floats, dynamic: Floats, names: Sequence[str]) -> MatrixCorrelation:
    """Correlate two tables (S, S) of mean distributions with the same order of true and predicted classes."""
    beside = ~np.eye(len(names), dtype=np.bool_)
    # A class against itself stays on the diagonal when rows and columns change places together.
    orders = class_permutations(len(names))
    reordered = dynamic[orders[:, :, None], orders[:, None, :]][:, beside]
    fixed = np.broadcast_to(static[beside], reordered.shape)
    entries, off_diagonal, p_value = {}, {}, {}
    for kind, measure in MEASURES.items():
        entries[kind] = _number(measure(static.reshape(1, -1), dynamic.reshape(1, -1))[0])
        values = measure(fixed, reordered)
        off_diagonal[kind] = _number(values[0])
        p_value[kind] = None if off_diagonal[kind] is None else share_as_large(values)
    return MatrixCorrelation(
        classes=tuple(names), static=static, dynamic=dynamic, entries=entries, beside=off_diagonal, p_value=p_value
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleCorrelation:
    """Correlation of the two heads' distributions over the classes, one number for each clip.

    `values` (n,) has no flat rows, which are counted in `flat`. `same_class` and `any_class` are the means when a
    clip's static distribution stands against the dynamic one of another clip, of its own class or of any.
    """

    kind: str
    values: Floats
    mean: Interval | None
    flat: int
    same_class: float | None
    any_class: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        quartiles = np.quantile(self.values, (0.25, 0.5, 0.75)).tolist() if self.values.size else None
        return {
            "mean": None if self.mean is None else self.mean.to_dict(),
            "quartiles": quartiles,
            "values": [round(float(value), 6) for value in self.values],
            "flat": self.flat,
            "mean_with_another_clip_of_the_class": self.same_class,
            "mean_with_any_other_clip": self.any_class,
        }


def correlate_samples(static: Floats, dynamic: Floats, numbers: NDArray[np.int64]) -> dict[str, SampleCorrelation]:
    """Correlate the distributions (n, S) that both heads give the same clips of classes `numbers` (n,), by kind."""
    own, other = _other_of_class(numbers)
    everyone = np.random.default_rng(0).permutation(len(numbers))
    found = {}
    for kind, measure in MEASURES.items():
        values = measure(static, dynamic)
        kept = values[~np.isnan(values)]
        found[kind] = SampleCorrelation(
            kind=kind,
            values=kept,
            mean=bootstrap_interval(_plain_mean, (kept,)) if kept.size else None,
            flat=int(np.isnan(values).sum()),
            same_class=_mean(measure(static[own], dynamic[other])),
            any_class=_mean(measure(static[everyone], dynamic[np.roll(everyone, 1)])) if len(numbers) > 1 else None,
        )
    return found


def _other_of_class(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows, and for each another row of its class; classes with one sample are left out."""
    rows: list[int] = []
    others: list[int] = []
    for number in np.unique(numbers):
        group = np.random.default_rng(0).permutation(np.flatnonzero(numbers == number))
        if len(group) > 1:
            rows.extend(group.tolist())
            others.extend(np.roll(group, 1).tolist())
    return np.array(rows, dtype=np.int64), np.array(others, dtype=np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difficulty:
    """Are the same clips hard for both heads? Correlation over clips of the probability that each gives the true class.

    `within` first takes each class's mean off, so that classes hard for both heads do not count.
    """

    static: Floats
    dynamic: Floats
    over_clips: dict[str, float | None]
    within: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "over_clips": self.over_clips,
            "within_classes": self.within,
            "static": [round(float(value), 6) for value in self.static],
            "dynamic": [round(float(value), 6) for value in self.dynamic],
        }


def correlate_difficulty(static: Floats, dynamic: Floats, numbers: NDArray[np.int64]) -> Difficulty:
    """Correlate the true classes' probabilities in two distributions (n, S) of the same clips."""
    rows = np.arange(len(numbers))
    pair = static[rows, numbers], dynamic[rows, numbers]
    centred = tuple(side - _class_means(side, numbers) for side in pair)

    def measured(first: Floats, second: Floats) -> dict[str, float | None]:
        return {kind: _number(measure(first[None], second[None])[0]) for kind, measure in MEASURES.items()}

    return Difficulty(
        static=pair[0], dynamic=pair[1], over_clips=measured(*pair), within=measured(centred[0], centred[1])
    )


def _class_means(values: Floats, numbers: NDArray[np.int64]) -> Floats:
    means = np.zeros_like(values)
    for number in np.unique(numbers):
        means[numbers == number] = values[numbers == number].mean()
    return means


def _plain_mean(values: Floats) -> float:
    return float(values.mean())


def _mean(values: Floats) -> float | None:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
