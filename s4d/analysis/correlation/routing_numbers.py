"""Distances between routing distributions and what chance alone would make of them.

Letters: n samples, L MoAE layers, E experts, K classes, R random draws. A routing distribution is the mean over samples
of the share of a sample's choices that fell on each expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4d.data.counter import generator

DRAWS = 1000
LEVEL = 0.95
# A lift is the ratio of two counts; below this many expected tokens it says nothing.
FEWEST_EXPECTED = 5.0
FIT_STEPS = 500

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tested:
    """A number with its interval over samples (95 %) and its test against chance.

    Where samples change sides by chance, `by_chance` is its 95th percentile and `p_value` the share of draws as large.
    """

    value: float
    low: float
    high: float
    by_chance: float
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "by_chance": self.by_chance,
            "p_value": self.p_value,
        }


def entropy(distribution: Floats) -> Floats:
    """In bits, of distributions along the last axis."""
    logs = np.log2(distribution, out=np.zeros_like(distribution), where=distribution > 0)
    return -np.sum(distribution * logs, axis=-1)


def jensen_shannon(first: Floats, second: Floats) -> Floats:
    """Jensen-Shannon distance along the last axis, the root of the divergence in bits: 0 the same, 1 disjoint."""
    middle = (first + second) / 2
    divergence = entropy(middle) - (entropy(first) + entropy(second)) / 2
    # Rounding can leave a divergence of nothing just below it.
    return np.sqrt(np.clip(divergence, 0.0, 1.0))


def overlap(first: Floats, second: Floats) -> Floats:
    """Sum of the smaller share of each expert: 1 the same routing, 0 no expert in common."""
    return np.minimum(first, second).sum(-1)


def routing_distance(first: Sequence[Floats], second: Sequence[Floats], *, draws: int, seed: int) -> list[Tested]:
    """Distance in each layer between the routing of two sets of samples with shares (n, L, E) and (m, L, E).

    Sets come in strata (classes, say) that count equally, whatever their sizes; samples change sides by chance within
    their stratum alone. The interval is the basic bootstrap's: the percentile one would add the noise of resampling to
    a number that noise only ever makes larger.
    """
    sides, shape = (first, second), first[0].shape[1:]
    found = jensen_shannon(*(_usage(side) for side in sides))
    together = [np.concatenate(pair) for pair in zip(first, second, strict=True)]
    shuffled, resampled = np.empty((draws, shape[0])), np.empty((draws, shape[0]))
    for draw in range(draws):
        rng = generator(seed, "routing", draw)
        mixed = [rows[rng.permutation(len(rows))] for rows in together]
        halves = [(rows[: len(left)], rows[len(left) :]) for rows, left in zip(mixed, first, strict=True)]
        shuffled[draw] = jensen_shannon(_usage([half[0] for half in halves]), _usage([half[1] for half in halves]))
        again = [[rows[rng.integers(len(rows), size=len(rows))] for rows in side] for side in sides]
        resampled[draw] = jensen_shannon(*(_usage(side) for side in again))
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [
        Tested(
            value=float(found[layer]),
            low=float(np.clip(2 * found[layer] - high[layer], 0, 1)),
            high=float(np.clip(2 * found[layer] - low[layer], 0, 1)),
            by_chance=float(np.quantile(shuffled[:, layer], LEVEL)),
            p_value=_p_value(float(found[layer]), shuffled[:, layer]),
        )
        for layer in range(shape[0])
    ]


def _usage(strata: Sequence[Floats]) -> Floats:
    """Mean over strata of the mean over samples, (L, E)."""
    usage: Floats = np.mean([rows.mean(0) for rows in strata], axis=0)
    return usage


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassInformation:
    """What an expert's choice tells of the class: `bits`, and `adjusted` for chance: 0 nothing, 1 all that it could.

    `by_chance` are the mean bits where the classes are shuffled over samples.
    """

    bits: float
    by_chance: float
    adjusted: float
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        adjusted = None if self.adjusted != self.adjusted else self.adjusted
        return {"bits": self.bits, "by_chance": self.by_chance, "adjusted": adjusted, "p_value": self.p_value}


def class_information(shares: Floats, labels: Ints, classes: int, *, draws: int, seed: int) -> list[ClassInformation]:
    """Mutual information of class and chosen expert in each layer, from shares (n, L, E); NaN for a single class."""
    found, largest = _information(shares, labels, classes)
    chance = np.stack(
        [
            _information(shares, generator(seed, "classes", draw).permutation(labels), classes)[0]
            for draw in range(draws)
        ]
    )
    return [
        ClassInformation(
            bits=float(found[layer]),
            by_chance=float(chance[:, layer].mean()),
            adjusted=_share(found[layer] - chance[:, layer].mean(), largest[layer] - chance[:, layer].mean()),
            p_value=_p_value(float(found[layer]), chance[:, layer]),
        )
        for layer in range(shares.shape[1])
    ]


def _information(shares: Floats, labels: Ints, classes: int) -> tuple[Floats, Floats]:
    """Mutual information (L,) in bits, and the most it could be: the smaller entropy of class and expert."""
    members = (labels[:, None] == np.arange(classes)).astype(np.float64)
    joint = (members.T @ shares.reshape(len(shares), -1)).reshape(classes, *shares.shape[1:]).swapaxes(0, 1)
    joint = joint / len(labels)
    by_class, by_expert = entropy(joint.sum(2)), entropy(joint.sum(1))
    together = entropy(joint.reshape(len(joint), -1))
    return np.clip(by_class + by_expert - together, 0, None), np.minimum(by_class, by_expert)


def lift(pairs: Ints) -> Floats:
    """How much more often than independence two experts are chosen together, (E, E); NaN where too few to say.

    Independence is that of a choice without repetition: pairs in proportion to a weight of each expert, the weights
    such that every expert is chosen as often as it was. (The product of the experts' shares would call every pair of a
    choice of two out of few rare, since no token chooses an expert twice.)
    """
    counts = pairs.astype(np.float64)
    if not counts.any():
        return np.full(counts.shape, np.nan)
    expected = _independent(counts)
    enough = expected >= FEWEST_EXPECTED
    np.fill_diagonal(enough, False)
    return np.divide(counts, expected, out=np.full(counts.shape, np.nan), where=enough)


def _independent(counts: Floats) -> Floats:
    """Table w_i w_j off the diagonal with the row sums of `counts`, by symmetric proportional fitting."""
    wanted = counts.sum(1)
    weights = np.where(wanted > 0, wanted / np.sqrt(wanted.sum()), 0.0)
    for _ in range(FIT_STEPS):
        rows = weights * (weights.sum() - weights)
        # The root of the correction: the full one would swing, since it acts on rows and columns at once.
        weights = weights * np.sqrt(np.divide(wanted, rows, out=np.zeros_like(rows), where=rows > 0))
    table = np.outer(weights, weights)
    np.fill_diagonal(table, 0.0)
    return table


def _p_value(value: float, chance: Floats) -> float:
    # Draws that are equal but for the order of addition count as equal.
    return float((1 + np.count_nonzero(chance >= value - 1e-12)) / (1 + len(chance)))


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 1e-12 else float("nan")
