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
        cos, sin = math.cos(pose.roll), math.sin(pose.roll)
        dx, dy = xs - pose.x, ys - pose.y
        head_y = (dy * cos - dx * sin) * (1.0 / self.half_height)
        head_y = np.where(head_y > 0.0, head_y * (1.0 / self.stretch), head_y)
        below = np.maximum(head_y, 0.0)
        head_x = (dx * cos + dy * sin) * (1.0 / self.half_width) * (1.0 + identity.taper * below * below)
        self.head_x, self.head_y = head_x, head_y
        radius = head_x * head_x + head_y * head_y
        self.coverage = soft(1.0 - radius, 4.0 * self.pixel)
        self.head_z = np.sqrt(np.maximum(1.0 - radius, 0.0))
        cos, sin = math.cos(pose.yaw), math.sin(pose.yaw)
        self.u = head_x * cos - self.head_z * sin
        depth = head_x * sin + self.head_z * cos
        cos, sin = math.cos(pose.pitch), math.sin(pose.pitch)
        self.v = head_y * cos - depth * sin
        self.albedo = np.empty((3, size, size), np.float32)
        self.albedo[:] = np.asarray(identity.skin, np.float32)[:, None, None]
        self.relief = np.zeros((size, size), np.float32)

    def region(self, left: float, right: float, top: float, bottom: float) -> Region:
        """Pixel rectangle that holds the surface patch [left, right] x [top, bottom]."""
        u = np.array([left, (left + right) / 2, right] * 3)
        v = np.repeat([top, (top + bottom) / 2, bottom], 3)
        w = np.sqrt(np.maximum(1.0 - u * u - v * v, 0.0))
        pose = self.pose
        y = v * math.cos(pose.pitch) + w * math.sin(pose.pitch)
        w = w * math.cos(pose.pitch) - v * math.sin(pose.pitch)
        x = u * math.cos(pose.yaw) + w * math.sin(pose.yaw)
        x = x / (1.0 + self.identity.taper * np.square(np.maximum(y, 0.0))) * self.half_width
        y = np.where(y > 0.0, y * self.stretch, y) * self.half_height
        cos, sin = math.cos(pose.roll), math.sin(pose.roll)
        columns = (x * cos - y * sin + pose.x + 1.0) * (self.size / 2)
        rows = (x * sin + y * cos + pose.y + 1.0) * (self.size / 2)
        return self._span(rows), self._span(columns)

    def _span(self, positions: np.ndarray) -> slice:
        low = max(int(positions.min()) - 1, 0)
        return slice(min(low, self.size), max(min(int(positions.max()) + 2, self.size), min(low, self.size)))

    def paint(self, region: Region, mask: np.ndarray, colour: tuple[float, float, float]) -> None:
        """Lay a colour over the albedo of a region where `mask` (0..1) says."""
        for plane, value in zip(self.albedo, colour, strict=True):
            view = plane[region]
            view += mask * (value - view)

    def darken(self, region: Region, mask: np.ndarray) -> None:
        """Multiply the albedo of a region by 1 - `mask`: furrows, shadows, stubble."""
        self.albedo[(slice(None), *region)] *= 1.0 - mask
