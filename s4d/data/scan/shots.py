"""Scene cuts: where one frame has another picture than all frames before it.

A cut lies before frame t where the picture changes at once and stays changed: the mean difference of small pictures
between t and t-1, between t and t-2 and between t+1 and t-1 is at least DIFFERENCE levels; the colour histogram of t
has at least HISTOGRAM of its pixels in other bins than that of t-1; and the change stands out, by RATIO, against the
median change of the NEAR frames on both sides. Looking at the frames around leaves out flashes and single damaged
frames, the ratio leaves out shaking cameras. Slow fades and dissolves are not found.

DIFFERENCE and HISTOGRAM lie between the largest changes inside generated clips of talking faces (15 levels, 7 % of the
pixels) and the smallest between two such clips (22 levels, 13 %).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DIFFERENCE = 18.0
HISTOGRAM = 0.10
RATIO = 3.0
NEAR = 8


class ShotWatcher:
    """Takes the small pictures of a clip one by one and keeps three numbers of each, not the picture."""

    def __init__(self) -> None:
        self._last: list[NDArray[np.int16]] = []
        self._histogram: NDArray[np.float64] | None = None
        self._to_last: list[float] = []
        self._to_second_last: list[float] = []
        self._moved: list[float] = []

    def add(self, small: NDArray[np.uint8]) -> None:
        """The next frame, (SIDE, SIDE, 3)."""
        picture = small[::2, ::2].astype(np.int16)
        histogram = _histogram(small)
        before = self._last[-1] if self._last else picture
        earlier = self._last[-2] if len(self._last) > 1 else before
        self._to_last.append(float(np.abs(picture - before).mean()))
        self._to_second_last.append(float(np.abs(picture - earlier).mean()))
        self._moved.append(0.0 if self._histogram is None else float(np.abs(histogram - self._histogram).sum() / 2))
        self._last = [*self._last[-1:], picture]
        self._histogram = histogram

    def cuts(self) -> tuple[int, ...]:
        """Number of the first frame of each shot but the first."""
        return tuple(t for t in range(1, len(self._to_last)) if self._is_cut(t))

    def _is_cut(self, t: int) -> bool:
        if self._to_last[t] < DIFFERENCE or self._moved[t] < HISTOGRAM:
            return False
        after = self._to_second_last[t + 1] if t + 1 < len(self._to_last) else self._to_last[t]
        if self._to_second_last[t] < DIFFERENCE or after < DIFFERENCE:
            return False
        near = self._to_last[max(1, t - NEAR) : t] + self._to_last[t + 1 : t + 1 + NEAR]
        return not near or self._to_last[t] >= RATIO * float(np.median(near))


def _histogram(small: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Share of the pixels in each of 4 x 4 x 4 colours."""
    level = (small >> 6).astype(np.intp)
    bins = level[..., 0] * 16 + level[..., 1] * 4 + level[..., 2]
    return np.bincount(bins.ravel(), minlength=64) / bins.size
