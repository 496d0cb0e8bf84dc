"""Ray cast of the head: which point of the face each pixel shows, and paint on it.

Coordinates: (x, y) run over the frame from -1 to 1; the head is a unit sphere stretched to the face's outline, and
(u, v) are its surface coordinates, u to the right, v down, both 0 between the eyes and the nose, v = 1 the chin.
Arrays are float32, (rows, columns), or (3, rows, columns) for colours.
"""

from __future__ import annotations

import math

import numpy as np

from s4d.synth.identity import Identity
from s4d.synth.scene import Pose

Region = tuple[slice, slice]

JAW_STRETCH = 0.15
_GRIDS: dict[int, tuple[np.ndarray, np.ndarray]] = {}


def frame_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres of a square frame in -1..1, as a row and a column that broadcast."""
    if size not in _GRIDS:
        line = ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)
        _GRIDS[size] = line[None, :], line[:, None]
    return _GRIDS[size]


def soft(distance: np.ndarray, width: float) -> np.ndarray:
    """Coverage of the half plane `distance` > 0 with a linear edge of `width`."""
    return np.minimum(np.maximum(distance * (1.0 / width) + 0.5, 0.0), 1.0)


def bell(distance: np.ndarray, width: float) -> np.ndarray:
    """Cheap bump with compact support: 1 at 0, 0 from `width` on, smooth at both ends."""
    inside = np.maximum(1.0 - np.square(distance * (1.0 / width)), 0.0)
    return inside * inside


class Canvas:
    """Surface coordinates of every pixel of one pose, with the albedo and the relief painted so far."""

    def __init__(self, identity: Identity, pose: Pose, size: int, jaw: float) -> None:
        """Cast one ray per pixel; `jaw` (0..1) lengthens the lower face."""
        self.size, self.identity, self.pose = size, identity, pose
        self.half_width = pose.scale
        self.half_height = pose.scale * identity.aspect
        self.stretch = 1.0 + JAW_STRETCH * jaw
        self.pixel = 2.0 / size / self.half_height
        xs, ys = frame_grid(size)
        self.rotation = tuple(f(angle) for angle in (pose.yaw, pose.pitch, pose.roll) for f in (math.sin, math.cos))
        sin_yaw, cos_yaw, sin_pitch, cos_pitch, sin, cos = self.rotation
        dx, dy = xs - pose.x, ys - pose.y
        head_y = (dy * cos - dx * sin) * (1.0 / self.half_height)
        head_y = np.where(head_y > 0.0, head_y * (1.0 / self.stretch), head_y)
        below = np.maximum(head_y, 0.0)
        head_x = (dx * cos + dy * sin) * (1.0 / self.half_width) * (1.0 + identity.taper * below * below)
        self.head_x, self.head_y = head_x, head_y
        radius = head_x * head_x + head_y * head_y
        self.coverage = soft(1.0 - radius, 4.0 * self.pixel)
        self.head_z = np.sqrt(np.maximum(1.0 - radius, 0.0))
        self.u = head_x * cos_yaw - self.head_z * sin_yaw
        depth = head_x * sin_yaw + self.head_z * cos_yaw
        self.v = head_y * cos_pitch - depth * sin_pitch
        self.albedo = np.empty((3, size, size), np.float32)
        self.albedo[:] = np.asarray(identity.skin, np.float32)[:, None, None]
        self.relief = np.zeros((size, size), np.float32)

    def region(self, left: float, right: float, top: float, bottom: float) -> Region:
        """Pixel rectangle that holds the surface patch [left, right] x [top, bottom]."""
        places = [
            self.project(u, v) for v in (top, 0.5 * (top + bottom), bottom) for u in (left, 0.5 * (left + right), right)
        ]
        return self._span([row for row, _ in places]), self._span([column for _, column in places])

    def project(self, u: float, v: float) -> tuple[float, float]:
        """Row and column of a surface point; scalar arithmetic, since nine points are too few for arrays to pay."""
        sin_yaw, cos_yaw, sin_pitch, cos_pitch, sin_roll, cos_roll = self.rotation
        w = math.sqrt(max(1.0 - u * u - v * v, 0.0))
        y = v * cos_pitch + w * sin_pitch
        x = u * cos_yaw + (w * cos_pitch - v * sin_pitch) * sin_yaw
        below = max(y, 0.0)
        x *= self.half_width / (1.0 + self.identity.taper * below * below)
        y *= self.half_height * (self.stretch if y > 0.0 else 1.0)
        half = 0.5 * self.size
        row = (x * sin_roll + y * cos_roll + self.pose.y + 1.0) * half
        return row, (x * cos_roll - y * sin_roll + self.pose.x + 1.0) * half

    def _span(self, positions: list[float]) -> slice:
        low = min(max(int(min(positions)) - 1, 0), self.size)
        return slice(low, max(min(int(max(positions)) + 2, self.size), low))

    def paint(self, region: Region, mask: np.ndarray, colour: tuple[float, float, float]) -> None:
        """Lay a colour over the albedo of a region where `mask` (0..1) says."""
        for plane, value in zip(self.albedo, colour, strict=True):
            view = plane[region]
            view += mask * (value - view)

    def darken(self, region: Region, mask: np.ndarray) -> None:
        """Multiply the albedo of a region by 1 - `mask`: furrows, shadows, stubble."""
        self.albedo[(slice(None), *region)] *= 1.0 - mask
