"""A number with the interval that its resampled values fill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """`value` as measured, with the bounds of the central share `level` of its bootstrap distribution."""

    value: float
    low: float
    high: float
    level: float

    def excludes(self, number: float) -> bool:
        """Whether `number` lies outside; of a gain, `excludes(0.0)` calls it real at this level."""
        return not self.low <= number <= self.high

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high, "level": self.level}


def percentile_interval(value: float, drawn: NDArray[np.float64], level: float) -> Interval:
    """The percentile interval of resampled values (D,); ValueError for a level outside (0, 1) or values not finite."""
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level!r}")
    if not drawn.size or not np.isfinite(drawn).all():
        raise ValueError(
            f"drawn: expected finite values, got {int((~np.isfinite(drawn)).sum())} others of {drawn.size}"
        )
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=float(value), low=float(low), high=float(high), level=level)
