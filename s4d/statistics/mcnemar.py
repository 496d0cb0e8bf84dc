"""McNemar's exact test: do two classifiers have the same accuracy on the samples both were tested on?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, kw_only=True, slots=True)
class McNemar:
    """Samples that only one of the two got right, and the two-sided p value of such a split by chance."""

    first_only: int
    second_only: int
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"first_only": self.first_only, "second_only": self.second_only, "p_value": self.p_value}


def mcnemar(first: ArrayLike, second: ArrayLike, labels: ArrayLike) -> McNemar:
    """Exact test of predicted class numbers (n,) of two classifiers; ValueError for unequal shapes.

    Samples on which both are right or both wrong say nothing; the others are a fair coin's throws if neither is better.
    """
    one, two, true = np.asarray(first), np.asarray(second), np.asarray(labels)
    if not one.shape == two.shape == true.shape or true.ndim != 1:
        raise ValueError(f"mcnemar: expected three equal lengths, got {one.shape}, {two.shape} and {true.shape}")
    first_right, second_right = one == true, two == true
    first_only = int((first_right & ~second_right).sum())
    second_only = int((second_right & ~first_right).sum())
    return McNemar(first_only=first_only, second_only=second_only, p_value=_p_value(first_only, second_only))


def _p_value(heads: int, tails: int) -> float:
    """Twice the smaller tail of a fair coin, in whole numbers, so that nothing is rounded before the division."""
    throws = heads + tails
    term = ways = 1
    for number in range(1, min(heads, tails) + 1):
        term = term * (throws - number + 1) // number
        ways += term
    return min(1.0, 2 * ways / 2**throws)
