"""What a model says of a clip, as a whole and over time. Letters: V views, K classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Frames `first` to `last` (both included) of a clip, from `start` to `end` seconds where these are known."""

    first: int
    last: int
    start: float | None
    end: float | None
    probabilities: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One head's answer: `views` (V, K) are the probabilities of each view of the whole, `windows` those over time.

    `modality` is what the head was trained on. A picture has no windows. `size` is (width, height) of an upright frame,
    `turned` says that the stored frames were not upright.
    """

    source: str
    modality: str
    classes: tuple[str, ...]
    views: NDArray[np.float64]
    windows: tuple[Window, ...]
    frame_count: int
    fps: float | None
    size: tuple[int, int]
    turned: bool

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Probability of each class for the whole, (K,): the mean over the views."""
        mean: NDArray[np.float64] = self.views.mean(0)
        return mean

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.name_of(self.probabilities)

    @property
    def probability(self) -> float:
        """Probability of `label`."""
        return float(self.probabilities.max())

    @property
    def over_time(self) -> NDArray[np.float64]:
        """Mean over the windows, (K,); for long clips it says more than a few views. The whole without windows."""
        if not self.windows:
            return self.probabilities
        mean: NDArray[np.float64] = np.stack([window.probabilities for window in self.windows]).mean(0)
        return mean

    def name_of(self, probabilities: NDArray[np.float64]) -> str:
        """The most probable class of `probabilities` (K,)."""
        return self.classes[int(probabilities.argmax())]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; probabilities stand in the order of `classes`."""
        return {
            "source": self.source,
            "modality": self.modality,
            "label": self.label,
            "probability": self.probability,
            "classes": list(self.classes),
            "probabilities": self.probabilities.tolist(),
            "views": self.views.tolist(),
            "over_time": self.over_time.tolist(),
            "frame_count": self.frame_count,
            "fps": self.fps,
            "size": list(self.size),
            "turned": self.turned,
            "windows": [
                {
                    "first": window.first,
                    "last": window.last,
                    "start": window.start,
                    "end": window.end,
                    "label": self.name_of(window.probabilities),
                    "probabilities": window.probabilities.tolist(),
                }
                for window in self.windows
            ],
        }


def plan_windows(frame_count: int, length: int, hop: int) -> Sequence[tuple[int, int]]:
    """First and last frame of windows of `length` frames every `hop`, the last one at the end of the clip.

    A clip that is no longer than a window is one window.
    """
    if frame_count <= length:
        return [(0, frame_count - 1)]
    starts = list(range(0, frame_count - length, hop))
    return [(start, start + length - 1) for start in [*starts, frame_count - length]]
