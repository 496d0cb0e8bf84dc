"""What is kept of the decoded frames of one medium: small facts, never the frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from s4d.data.scan.perceptual import brightness, perceptual_hash
from s4d.data.scan.shots import ShotWatcher

BLACK = 16.0


class Facts(TypedDict):
    """Fields of a `Probe` that come from pixels."""

    frames: int
    hashes: tuple[str, ...]
    cuts: tuple[int, ...]
    luma: float | None
    black_frames: int


@dataclass(kw_only=True)
class Look:
    """Takes small pictures one by one; `announced` is the number of frames to expect."""

    announced: int
    frames: int = 0
    black: int = 0
    luma: float = 0.0
    hashes: dict[int, str] = field(default_factory=dict)
    shots: ShotWatcher = field(default_factory=ShotWatcher)

    def add(self, small: NDArray[np.uint8]) -> None:
        """The next frame, (SIDE, SIDE, 3)."""
        if self.frames in self._hashed():
            self.hashes[self.frames] = perceptual_hash(small)
        mean = float(brightness(small).mean())
        self.luma += mean
        self.black += mean < BLACK
        self.shots.add(small)
        self.frames += 1

    def _hashed(self) -> tuple[int, ...]:
        """Frames at a quarter, half and three quarters of a clip."""
        return (0,) if self.announced == 1 else tuple(self.announced * part // 4 for part in (1, 2, 3))

    def facts(self) -> Facts:
        """Everything seen; hashes only where every hashed frame has something to see."""
        hashes = tuple(self.hashes.get(place, "") for place in self._hashed())
        return Facts(
            frames=self.frames,
            hashes=hashes if all(hashes) else (),
            cuts=self.shots.cuts(),
            luma=round(self.luma / self.frames, 2) if self.frames else None,
            black_frames=self.black,
        )
