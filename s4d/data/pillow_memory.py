"""The pixels of a Pillow image where Pillow keeps them, and the way back.

Pillow stores RGB in four bytes a pixel, and `np.asarray` packs a copy of them. It also lends its memory out through the
Arrow C data interface. The two structures of it that matter here are read with ctypes: they are fixed for good, while
pyarrow would be loaded, and start a thread, in every decoding process.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s4d.data.media_limits import MAX_IMAGE_PIXELS

# Bytes from a pixel to the next.
STEP = 4

# Only an image in one piece can be lent: no image within the limits is cut. Lines follow each other without a gap.
Image.core.set_block_size(STEP * MAX_IMAGE_PIXELS)  # type: ignore[attr-defined]
Image.core.set_alignment(1)  # type: ignore[attr-defined]


class _ArrowArray(ctypes.Structure):
    """Start of ArrowArray in the Arrow C data interface."""


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]
_pointer_of.restype = ctypes.c_void_p


@dataclass(frozen=True, slots=True)
class _Lent:
    """What NumPy asks an owner of memory for; `capsule` keeps Pillow's memory."""

    image: Image.Image
    capsule: object
    __array_interface__: dict[str, Any]


def rgb_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) of a loaded RGB image, not to be written to: a view with `STEP` bytes a pixel.

    The view keeps the memory alive. A copy where Pillow had too little memory to keep the image in one piece.
    """
    try:
        # The schema is left out: what it says of an RGB image is checked below.
        capsule = image.im.__arrow_c_array__()
    except ValueError:
        return np.asarray(image)
    pixels = _ArrowArray.from_address(_pointer_of(capsule, b"arrow_array"))
    count = image.width * image.height
    if (pixels.length, pixels.offset, pixels.n_children) != (count, 0, 1):
        return np.asarray(image)
    levels = pixels.children[0].contents
    if (levels.length, levels.offset, levels.n_buffers) != (STEP * count, 0, 2):
        return np.asarray(image)
    interface = {
        "version": 3,
        "typestr": "|u1",
        "shape": (image.height, image.width, 3),
        "strides": (STEP * image.width, STEP, 1),
        "data": (levels.buffers[1], True),
    }
    return np.asarray(_Lent(image, capsule, interface))


def picture_of(frame: NDArray[np.uint8]) -> Image.Image:
    """A frame (height, width, 3) as a Pillow image, not to be drawn on: the one whose memory it shows, or a copy."""
    return frame.base.image if isinstance(frame.base, _Lent) else Image.fromarray(frame)


def packed(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame whose pixels lie side by side, though lines may be padded; Pillow packs faster than NumPy."""
    return np.asarray(frame.base.image) if isinstance(frame.base, _Lent) else frame
