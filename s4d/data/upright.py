"""Pictures and videos the way players show them, where a file asks for it: phones store what they film lying down.

Training and evaluation take frames as they are stored, as every dataset's annotations do. What somebody hands in by
itself is turned first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from s4d.data.decode_image import stored_orientation
from s4d.data.decode_video import stored_matrix
from s4d.data.manifest import Kind
from s4d.data.media import Frames, Media

Pixels = NDArray[np.uint8]


class Orientation(NamedTuple):
    """What turns a stored frame upright: a mirror image first, then quarter turns against the clock."""

    mirrored: bool = False
    turns: int = 0

    def size(self, stored: tuple[int, int]) -> tuple[int, int]:
        """Width and height of an upright frame."""
        return (stored[1], stored[0]) if self.turns % 2 else stored

    def turn(self, pixels: Pixels) -> Pixels:
        """The upright frame (H, W, 3)."""
        if self == UPRIGHT:
            return pixels
        return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.turns))


UPRIGHT = Orientation()
# By the number that EXIF gives to the place of the first row and column.
EXIF = {
    2: Orientation(True, 0),
    3: Orientation(False, 2),
    4: Orientation(True, 2),
    5: Orientation(True, 1),
    6: Orientation(False, 3),
    7: Orientation(True, 3),
    8: Orientation(False, 1),
}


def orientation_of(path: Path, kind: Kind) -> Orientation:
    """What a file asks players to do; folders of frames ask for nothing. DataError for a file that cannot be read."""
    if kind == "frames":
        return UPRIGHT
    if kind == "image":
        return EXIF.get(stored_orientation(path), UPRIGHT)
    return from_matrix(*stored_matrix(path))


def from_matrix(a: float, b: float, c: float, d: float) -> Orientation:
    """The nearest of the eight ways to lay a frame, where a step right becomes (a, b) and a step down (c, d)."""
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return Orientation(mirrored, round(math.atan2(-b, a) / (math.pi / 2)) % 4)


@dataclass(frozen=True, slots=True)
class Upright:
    """An opened sample whose frames are turned; see `Media`."""

    stored: Media
    orientation: Orientation

    @property
    def frame_count(self) -> int:
        """Number of frames."""
        return self.stored.frame_count

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of an upright frame."""
        return self.orientation.size(self.stored.size)

    def frames(self, indices: Iterable[int], scale: float = 1.0) -> Frames:
        """Upright frames; see `Media.frames`."""
        return {index: self.orientation.turn(pixels) for index, pixels in self.stored.frames(indices, scale).items()}
