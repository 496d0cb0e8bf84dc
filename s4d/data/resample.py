"""Crop and resize of one frame in a single resampling, straight into the batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# Left, top, right and bottom in pixels of the frame; parts of a pixel count.
Box = tuple[float, float, float, float]


def resample(frame: NDArray[np.uint8], box: Box, out: NDArray[np.uint8], *, interpolation: str, flip: bool) -> None:
    """Write the part `box` of a frame (H, W, 3) to `out` (S, S, 3), filtered over the pixels it shrinks together."""
    size = (out.shape[1], out.shape[0])
    picture = np.asarray(Image.fromarray(frame).resize(size, RESAMPLE[interpolation], box=box))
    np.copyto(out, picture[:, ::-1] if flip else picture)
