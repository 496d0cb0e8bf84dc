"""Ratios of neighbouring rounds, their median with a bootstrap interval, and when that is a slow-down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# A slow-down of less than this is not reported as one.
LEAST_CHANGE = 0.05
LEVEL = 0.95
RESAMPLES = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Time of the working tree over that of the base, less one: median of all rounds, and its interval."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def is_slower(self) -> bool:
        """Whether the working tree is slower by more than 5 %, and certainly slower at all."""
        return self.median > LEAST_CHANGE and self.low > 0

    @property
    def is_faster(self) -> bool:
        """The same for a gain."""
        return self.median < -LEAST_CHANGE and self.high < 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def change_of(base: Sequence[float], head: Sequence[float]) -> Change:
    """The change from seconds of both sides, one entry each for every round; the interval is the same every time."""
    if len(base) != len(head) or len(base) == 0:
        raise ValueError(f"rounds: expected as many on both sides, got {len(base)} and {len(head)}")
    ratios = np.asarray(head) / np.asarray(base) - 1.0
    drawn = np.random.default_rng(0).choice(ratios, size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Change(median=float(np.median(ratios)), low=float(low), high=float(high), rounds=len(ratios))
