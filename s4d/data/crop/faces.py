"""A face in a frame as somebody found it, and whether that can be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from s4d.data.crop.geometry import FACE_POINTS, Points, apply, inverse, left_to_right, similarity
from s4d.errors import DataError

MIN_BOX = 2.0
MIN_EYES = 1.0
# How far a box or a point may leave the frame, in frame sizes: faces that the frame cuts are boxed whole.
MAX_OUTSIDE = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """`box` (left, top, right, bottom), `points` (x and y of 2 or 5 points: eyes, nose, mouth corners) or both.

    `where` names the file and row it was read from; empty where it was detected. `relative` numbers are parts of the
    frame's width and height.
    """

    box: tuple[float, float, float, float] | None = None
    points: tuple[float, ...] | None = None
    where: str = ""
    relative: bool = False

    def __post_init__(self) -> None:
        if self.box is None and self.points is None:
            raise ValueError("a face needs a box or points")
        if self.points is not None and len(self.points) not in (4, 10):
            raise ValueError(f"points must hold x and y of 2 or 5 points, got {len(self.points)} numbers")

    def in_pixels(self, size: tuple[int, int]) -> Face:
        """The same face in pixels of a frame of `size` (w, h)."""
        if not self.relative:
            return self
        width, height = size
        box, points = self.box, self.points
        if box is not None:
            box = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
        if points is not None:
            points = tuple(value * size[place % 2] for place, value in enumerate(points))
        return Face(box=box, points=points, where=self.where)

    def point_array(self) -> Points | None:
        """The points, (2 or 5, 2), the left one of each pair first."""
        return None if self.points is None else left_to_right(np.array(self.points, np.float64).reshape(-1, 2))

    def outline(self) -> Points:
        """The box, or the upright square that the eyes speak for, (4,): left, top, right, bottom."""
        if self.box is not None:
            return np.array(self.box, np.float64)
        points = self.point_array()
        assert points is not None
        from_face = inverse(similarity(points[:2], FACE_POINTS[:2]))
        middle = apply(from_face, np.array([[0.5, 0.5]]))[0]
        half = 0.5 * math.sqrt(abs(float(np.linalg.det(from_face[:, :2]))))
        return np.concatenate((middle - half, middle + half))


def check_face(face: Face, size: tuple[int, int]) -> None:
    """DataError naming file and row for a box or points that cannot be those of a face in a frame of `size` (w, h)."""
    if face.box is not None:
        _check_box(face.box, size, face.where)
    points = face.point_array()
    if points is None:
        return
    field = "face_points"
    if not np.isfinite(points).all():
        raise _wrong(face.where, field, face.points, "a number is not finite")
    if float(np.linalg.norm(points[1] - points[0])) < MIN_EYES:
        raise _wrong(face.where, field, face.points, "the eyes fall together")
    middle = points[:2].mean(axis=0)
    extent = np.array(size, np.float64)
    if (middle < 0).any() or (middle > extent).any():
        raise _wrong(face.where, field, face.points, f"the eyes lie outside of the frame of {size[0]} x {size[1]}")
    if (points < -MAX_OUTSIDE * extent).any() or (points > (1.0 + MAX_OUTSIDE) * extent).any():
        raise _wrong(face.where, field, face.points, f"a point lies far outside of the frame of {size[0]} x {size[1]}")


def _check_box(box: tuple[float, float, float, float], size: tuple[int, int], where: str) -> None:
    left, top, right, bottom = box
    if not all(math.isfinite(value) for value in box):
        raise _wrong(where, "face_box", box, "a number is not finite")
    if right <= left or bottom <= top:
        raise _wrong(where, "face_box", box, "inverted or empty, expected left, top, right, bottom")
    if right - left < MIN_BOX or bottom - top < MIN_BOX:
        raise _wrong(where, "face_box", box, f"smaller than {MIN_BOX:g} pixels")
    if right <= 0 or bottom <= 0 or left >= size[0] or top >= size[1]:
        raise _wrong(where, "face_box", box, f"outside of the frame of {size[0]} x {size[1]}")
    if left < -MAX_OUTSIDE * size[0] or right > (1 + MAX_OUTSIDE) * size[0]:
        raise _wrong(where, "face_box", box, f"far wider than the frame of {size[0]} x {size[1]}")
    if top < -MAX_OUTSIDE * size[1] or bottom > (1 + MAX_OUTSIDE) * size[1]:
        raise _wrong(where, "face_box", box, f"far higher than the frame of {size[0]} x {size[1]}")


def _wrong(where: str, field: str, values: tuple[float, ...] | None, why: str) -> DataError:
    numbers = " ".join(f"{value:g}" for value in values or ())
    return DataError(f"{where}: field {field!r}: {numbers}: {why}" if where else f"{field} {numbers}: {why}")
