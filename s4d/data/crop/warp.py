"""One crop out of one frame."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s4d.data.crop.geometry import Transform, apply, inverse
from s4d.data.crop.recipe import Edge
from s4d.data.pillow_memory import picture_of

# Pixels around the wanted part that a bicubic sample can reach.
REACH = 3
# Frames that shrink at least twice this much are first averaged over squares of whole pixels, down to this.
FINE = 2.0


def warp(frame: NDArray[np.uint8], transform: Transform, size: int, edge: Edge) -> NDArray[np.uint8]:
    """The crop (size, size, 3) of a frame (H, W, 3) that `transform` (frame to crop) describes.

    Bicubic; where the frame shrinks, each pixel is the mean of a grid of samples as fine as the frame's own pixels.
    What lies outside of the frame is its mirror image or black. Work and memory depend on `size`, not on the frame.
    """
    back = inverse(transform)
    outside = _outside(back, size, frame.shape) if edge == "black" else None
    shrink = math.sqrt(abs(float(np.linalg.det(back[:, :2]))))
    coarse = int(shrink / FINE)
    if coarse > 1:
        frame = np.asarray(picture_of(frame).reduce(coarse))
        back, shrink = back / coarse, shrink / coarse
    samples = max(math.ceil(shrink - 0.01), 1)
    corners = apply(back, np.array([[0.0, 0.0], [size, 0.0], [0.0, size], [size, size]]))
    low = np.floor(corners.min(axis=0)).astype(int) - REACH
    high = np.ceil(corners.max(axis=0)).astype(int) + REACH
    window = _window(frame, low, high)
    shift = back[:, 2] - low
    (a, b), (d, e) = back[:, :2] / samples
    picture = Image.fromarray(window).transform(
        (size * samples, size * samples),
        Image.Transform.AFFINE,
        (a, b, shift[0], d, e, shift[1]),
        resample=Image.Resampling.BICUBIC,
    )
    out = np.array(picture.reduce(samples) if samples > 1 else picture)
    if outside is not None:
        out[outside] = 0
    return out


def _window(frame: NDArray[np.uint8], low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Rows and columns `low` to `high` (x, y) of the frame, with its mirror images around it."""
    height, width = frame.shape[:2]
    x, y = np.arange(low[0], high[0]), np.arange(low[1], high[1])
    return frame[_folded(y, height)[:, None], _folded(x, width)[None, :]]


def _folded(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Places reflected at both borders as often as it takes, the border pixel shown twice."""
    around = places % (2 * length)
    return np.where(around < length, around, 2 * length - 1 - around)


def _outside(back: Transform, size: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels of the crop (size, size) whose centre does not lie in the frame."""
    centres = np.arange(size) + 0.5
    x = back[0, 0] * centres[None, :] + back[0, 1] * centres[:, None] + back[0, 2]
    y = back[1, 0] * centres[None, :] + back[1, 1] * centres[:, None] + back[1, 2]
    outside: NDArray[np.bool_] = (x < 0) | (y < 0) | (x > shape[1]) | (y > shape[0])
    return outside
