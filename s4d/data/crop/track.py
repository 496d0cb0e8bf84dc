"""One face through the frames of a clip: which one, where it was missed, and how it is steadied.

Letters: F frames, P points (0, 2 or 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from s4d.data.crop.faces import Face

# Two boxes that share less than this part of their union are two faces.
SAME_FACE = 0.3
# A face at a corner of the frame counts this much of one in the middle.
CORNER_WEIGHT = 0.25


@dataclass(frozen=True, slots=True)
class Track:
    """Boxes (F, 4) and points (F, P, 2) of one face; NaN where unknown, but in frames that `steady` has filled."""

    boxes: NDArray[np.float64]
    points: NDArray[np.float64]

    @property
    def found(self) -> NDArray[np.bool_]:
        """Frames with a face, (F,)."""
        return ~np.isnan(self.boxes[:, 0])


def track_of(faces: Sequence[Face | None]) -> Track:
    """The face of each frame as arrays; points only as many as every frame with points has."""
    arrays = [None if face is None else face.point_array() for face in faces]
    count = min((len(points) for points in arrays if points is not None), default=0)
    boxes = np.full((len(faces), 4), np.nan)
    points = np.full((len(faces), count, 2), np.nan)
    for place, (face, array) in enumerate(zip(faces, arrays, strict=True)):
        if face is not None:
            boxes[place] = face.outline()
        if array is not None:
            points[place] = array[:count]
    return Track(boxes, points)


def steady(track: Track, width: int) -> Track:
    """Frames without a face between those with one filled in a straight line, then a running median of `width` frames.

    Before the first and after the last face it stands still. The track must have a face.
    """
    return Track(_steady(track.boxes, width), _steady(track.points, width))


def still(track: Track) -> Track:
    """The same track with its median in every frame: one crop for the clip."""
    return Track(*(np.broadcast_to(np.median(part, axis=0), part.shape) for part in (track.boxes, track.points)))


def _steady(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    frames = len(values)
    columns = values.reshape(frames, -1)
    filled = np.empty_like(columns)
    places = np.arange(frames)
    for column in range(columns.shape[1]):
        known = np.flatnonzero(~np.isnan(columns[:, column]))
        filled[:, column] = np.interp(places, known, columns[known, column])
    out = np.empty_like(filled)
    for place in range(frames):
        # As far to one side as to the other, so that a face that moves evenly is not held back at the ends.
        half = min(width // 2, place, frames - 1 - place)
        out[place] = np.median(filled[place - half : place + half + 1], axis=0)
    return out.reshape(values.shape)


@dataclass(slots=True)
class _Trail:
    """Detections of one face while they are collected."""

    faces: dict[int, Face] = field(default_factory=dict)
    last: NDArray[np.float64] = field(default_factory=lambda: np.zeros(4))
    weight: float = 0.0

    def add(self, place: int, face: Face, size: tuple[int, int]) -> None:
        self.faces[place] = face
        self.last = face.outline()
        self.weight += prominence(self.last, size)


def main_face(detections: Sequence[Sequence[Face]], size: tuple[int, int]) -> list[Face | None]:
    """The face of a clip that is largest and most central over all its frames, in each frame where it was detected.

    Detections of neighbouring frames are the same face where their boxes overlap most, across gaps too.
    """
    trails: list[_Trail] = []
    for place, faces in enumerate(detections):
        free = list(range(len(faces)))
        pairs = sorted(
            ((overlap(trail.last, faces[i].outline()), t, i) for t, trail in enumerate(trails) for i in free),
            key=lambda pair: (-pair[0], pair[1], pair[2]),
        )
        taken: set[int] = set()
        for shared, t, i in pairs:
            if shared >= SAME_FACE and t not in taken and i in free:
                trails[t].add(place, faces[i], size)
                taken.add(t)
                free.remove(i)
        for i in free:
            trails.append(_Trail())
            trails[-1].add(place, faces[i], size)
    if not trails:
        return [None] * len(detections)
    best = max(trails, key=lambda trail: trail.weight)
    return [best.faces.get(place) for place in range(len(detections))]


def prominence(box: NDArray[np.float64], size: tuple[int, int]) -> float:
    """Area of a box as a part of the frame, less the further its middle lies from the frame's."""
    extent = np.array(size, np.float64)
    area = float(np.prod((box[2:] - box[:2]) / extent))
    away = float(np.linalg.norm((box[:2] + box[2:]) / extent - 1.0)) / np.sqrt(2.0)
    return area * (1.0 - (1.0 - CORNER_WEIGHT) * min(away, 1.0))


def overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = float(np.prod(np.maximum(high - low, 0.0)))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared
    return shared / union if union > 0 else 0.0
