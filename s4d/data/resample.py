"""Crop and resize in one resampling, straight into the batch: by the native library, by Pillow where there is none.

Both give the same pixels to the bit, so a run does not depend on which of them is there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kernels import native
from kernels.native.crop import crop_resize
from s4d.data.pillow_memory import picture_of

logger = logging.getLogger(__name__)

RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# Left, top, right and bottom in pixels of the frame; parts of a pixel count.
Box = tuple[float, float, float, float]
Pixels = NDArray[np.uint8]


def resample(frames: Sequence[Pixels], box: Box, out: Sequence[Pixels], *, interpolation: str, flip: bool) -> None:
    """Write the part `box` of each frame (H, W, 3) to its `out` (S, S, 3), filtered over what it shrinks together.

    Frames have one shape, one distance between lines and one, of 3 or 4 bytes, between pixels.
    """
    if _is_native():
        crop_resize(frames, box, out, interpolation=interpolation, flip=flip)
        return
    for frame, pixels in zip(frames, out, strict=True):
        size = (pixels.shape[1], pixels.shape[0])
        picture = np.asarray(picture_of(frame).resize(size, RESAMPLE[interpolation], box=box))
        np.copyto(pixels, picture[:, ::-1] if flip else picture)


def choose() -> tuple[str, str]:
    """Who crops and resizes, "native" or "Pillow", and why."""
    usable, reason = native.status()
    return ("native", "the native library is there") if usable else ("Pillow", reason)


@cache
def _is_native() -> bool:
    backend, reason = choose()
    if backend != "native":
        logger.info("crop and resize: by Pillow, which is slower: %s", reason)
    return backend == "native"
