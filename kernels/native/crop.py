"""Crop and resize of decoded frames by the native library: uint8 in, uint8 out, no tensor and no copy in between."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.native import library

# Mirror of S4dFilter in s4d_native.h.
FILTERS = {"bilinear": 0, "bicubic": 1}

Pixels = NDArray[np.uint8]


class _Frames(ctypes.Structure):
    """Mirror of S4dFrames in s4d_native.h."""

    _fields_ = [
        ("values", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("pitch", ctypes.c_int64),
        ("step", ctypes.c_int64),
    ]


def crop_resize(
    frames: Sequence[Pixels],
    box: tuple[float, float, float, float],
    outputs: Sequence[Pixels],
    *,
    interpolation: str,
    flip: bool,
) -> None:
    """Write the part ``box`` of each frame (H, W, 3), resampled with antialiasing, to its output (S, S, 3).

    The result equals Pillow's ``Image.resize((S, S), filter, box=box)`` to the bit, mirrored with ``flip``. All frames
    have one shape and one distance between lines, which may be longer than a line, and between pixels, of 3 or 4 bytes;
    a byte that belongs to no pixel means nothing, and none is read behind the last pixel. ``box`` is left, top, right
    and bottom in pixels. ValueError says what does not fit.
    """
    if len(frames) != len(outputs):
        raise ValueError(f"outputs: expected one for each of {len(frames)} frames, got {len(outputs)}")
    if len(frames) == 0:
        return
    height, width, _ = shape = frames[0].shape
    strides = frames[0].strides
    size = outputs[0].shape[0]
    for frame in frames:
        if frame.dtype != np.uint8 or frame.shape != shape or shape[2:] != (3,) or frame.strides != strides:
            raise ValueError(f"frames: expected uint8 {shape} of strides {strides}, got {_text(frame)}")
    if strides[1:] not in ((3, 1), (4, 1)):
        raise ValueError(f"frames: expected pixels 3 or 4 bytes apart, got {_text(frames[0])}")
    for out in outputs:
        if out.dtype != np.uint8 or out.shape != (size, size, 3) or not out.flags.carray:
            raise ValueError(f"outputs: expected dense writable uint8 ({size}, {size}, 3), got {_text(out)}")
    values = _addresses(frames)
    record = _Frames(ctypes.addressof(values), len(frames), height, width, strides[0], strides[1])
    function = library().s4d_crop_resize
    function.restype = ctypes.c_int64
    refused = function(
        ctypes.byref(record),
        (ctypes.c_float * 4)(*box),
        ctypes.c_int32(FILTERS[interpolation]),
        ctypes.c_int32(flip),
        _addresses(outputs),
        ctypes.c_int64(size),
        ctypes.c_int32(torch.get_num_threads()),
    )
    if refused:
        raise ValueError(f"box: expected a part of {width} x {height} pixels, got {box}")


def _addresses(arrays: Sequence[Pixels]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(array.__array_interface__["data"][0] for array in arrays))


def _text(array: Pixels) -> str:
    return f"{array.dtype} {array.shape} of strides {array.strides}"
