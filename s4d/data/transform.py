"""Applies a SampleDraw to decoded frames: crop and resize in one resampling, flip, colours; uint8 in, uint8 out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from s4d.data.draws import SampleDraw
from s4d.data.media import Frames
from s4d.data.randaug import apply_operations
from s4d.data.resample import RESAMPLE, Box, resample


def needed_scale(draw: SampleDraw, size: tuple[int, int], output: int) -> float:
    """Smallest share of the decoded `size` that still has at least one pixel for each output pixel of the crop."""
    across = draw.crop_box[2] * size[0] / draw.resized[0]
    down = draw.crop_box[3] * size[1] / draw.resized[1]
    return output / min(across, down)


def pixel_box(draw: SampleDraw, size: tuple[int, int]) -> Box:
    """The crop in pixels of the decoded frame, which may be smaller than the frame on disk."""
    fx, fy = size[0] / draw.resized[0], size[1] / draw.resized[1]
    left, top, width, height = draw.crop_box
    right, bottom = min(size[0], (left + width) * fx), min(size[1], (top + height) * fy)
    return max(0.0, left * fx), max(0.0, top * fy), right, bottom


def _jitter(pixels: NDArray[np.uint8], factors: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Brightness, contrast and saturation of all frames at once, so that a clip keeps one common grey point."""
    frames, height, width, _ = pixels.shape
    image = Image.fromarray(pixels.reshape(frames * height, width, 3))
    brightness, contrast, saturation = factors
    image = ImageEnhance.Brightness(image).enhance(brightness)
    image = ImageEnhance.Contrast(image).enhance(contrast)
    image = ImageEnhance.Color(image).enhance(saturation)
    return np.asarray(image).reshape(pixels.shape)


def apply_draw(frames: Frames, draw: SampleDraw, out: NDArray[np.uint8]) -> None:
    """Write one view of the decoded `frames` to `out` (F, S, S, 3); the colour operations are shared by its frames."""
    first: dict[int, int] = {}
    alike: dict[tuple[object, ...], list[int]] = {}
    for place, index in enumerate(draw.frame_indices):
        if index not in first:
            first[index] = place
            alike.setdefault((frames[index].shape, frames[index].strides), []).append(index)
    for indices in alike.values():
        height, width, _ = frames[indices[0]].shape
        resample(
            [frames[index] for index in indices],
            pixel_box(draw, (width, height)),
            [out[first[index]] for index in indices],
            interpolation=draw.interpolation,
            flip=draw.flip,
        )
    if draw.color_ops:
        for place in first.values():
            operated = apply_operations(Image.fromarray(out[place]), draw.color_ops, RESAMPLE[draw.interpolation])
            out[place] = np.asarray(operated)
    for place, index in enumerate(draw.frame_indices):
        if first[index] != place:
            out[place] = out[first[index]]
    if draw.jitter is not None:
        out[:] = _jitter(out, draw.jitter)
