"""Colour jitter and RandAugment as tensor operations, for pixels that are decoded on a GPU.

The same draws as `s4d.data.transform` and `s4d.data.randaug` take through Pillow, on uint8 clips (F, H, W, 3) of any
device, without waiting for it. Equal to Pillow's results, geometric operations to one level where weights round apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from s4d.data.draws import SampleDraw
from s4d.data.randaug import FILL

GREY = FILL[0]


def apply_colors(pixels: Tensor, draw: SampleDraw) -> None:
    """Change the pixels (F, H, W, 3) of a view in place as its draw says; every frame alike."""
    changed = pixels
    for operation in draw.color_ops:
        changed = APPLY[operation.name](changed, operation.magnitude, draw.interpolation)
    if draw.jitter is not None:
        brightness, contrast, saturation = draw.jitter
        changed = _brightness(changed, brightness)
        # One grey point for the whole clip, where RandAugment's contrast has one for each frame.
        changed = _blend(_mean_grey(_grey(changed)), changed, contrast)
        changed = _saturation(changed, saturation)
    if changed is not pixels:
        pixels.copy_(changed)


def _blend(first: Tensor, second: Tensor, share: float) -> Tensor:
    """(1 - share) * first + share * second in float32, cut to whole levels within 0..255."""
    a, b = first.to(torch.float32), second.to(torch.float32)
    return (a + share * (b - a)).clamp(0, 255).to(torch.uint8)


def _grey(pixels: Tensor) -> Tensor:
    """Luma (F, H, W, 1) in 16-bit fixed point."""
    red, green, blue = pixels.to(torch.int32).split(1, dim=-1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _mean_grey(grey: Tensor) -> Tensor:
    """Mean of a whole clip, rounded; over an exact integer sum, so that the order of adding plays no part."""
    total = grey.sum(dtype=torch.int64)
    return ((total.to(torch.float64) / grey.numel()) + 0.5).floor()


def _brightness(pixels: Tensor, factor: float) -> Tensor:
    return _blend(torch.zeros_like(pixels), pixels, factor)


def _contrast(pixels: Tensor, factor: float) -> Tensor:
    totals = _grey(pixels).sum(dim=(1, 2, 3), keepdim=True, dtype=torch.int64)
    return _blend((totals.to(torch.float64) / (pixels.shape[1] * pixels.shape[2]) + 0.5).floor(), pixels, factor)


def _saturation(pixels: Tensor, factor: float) -> Tensor:
    return _blend(_grey(pixels), pixels, factor)


def _sharpness(pixels: Tensor, factor: float) -> Tensor:
    """Blend with a smoothed frame, whose border is the frame's own."""
    values = pixels.to(torch.int32)
    height, width = pixels.shape[1:3]
    smooth = values.clone()
    if height > 2 and width > 2:
        total = 4 * values[:, 1:-1, 1:-1]
        for down in range(3):
            for right in range(3):
                total = total + values[:, down : height - 2 + down, right : width - 2 + right]
        smooth[:, 1:-1, 1:-1] = (total.to(torch.float32) / 13 + 0.5).to(torch.int32)
    return _blend(smooth, pixels, factor)


def _solarize(pixels: Tensor, threshold: float) -> Tensor:
    # A threshold of 256 is one too many for uint8.
    return torch.where(pixels.to(torch.int32) < int(threshold), pixels, 255 - pixels)


def _solarize_add(pixels: Tensor, amount: float) -> Tensor:
    raised = (pixels.to(torch.int32) + int(amount)).clamp(max=255).to(torch.uint8)
    return torch.where(pixels < 128, raised, pixels)


def _histogram(pixels: Tensor) -> Tensor:
    """Counts (F, 3, 256) of each frame and colour."""
    frames = pixels.shape[0]
    planes = pixels.permute(0, 3, 1, 2).reshape(frames * 3, -1).to(torch.int64)
    counts = torch.zeros(frames * 3, 256, dtype=torch.int64, device=pixels.device)
    return counts.scatter_add_(1, planes, torch.ones_like(planes)).view(frames, 3, 256)


def _look_up(pixels: Tensor, table: Tensor) -> Tensor:
    """Levels through a table (F, 3, 256) of each frame and colour."""
    frames, height, width, _ = pixels.shape
    planes = pixels.permute(0, 3, 1, 2).reshape(frames, 3, -1).to(torch.int64)
    levels = table.clamp(0, 255).to(torch.uint8).gather(2, planes)
    return levels.view(frames, 3, height, width).permute(0, 2, 3, 1)


def _levels(pixels: Tensor) -> Tensor:
    return torch.arange(256, device=pixels.device)


def _auto_contrast(pixels: Tensor, _: float, __: str) -> Tensor:
    present, levels = _histogram(pixels) > 0, _levels(pixels)
    low = torch.where(present, levels, 255).amin(2, keepdim=True)
    high = torch.where(present, levels, 0).amax(2, keepdim=True)
    reach = (high - low).clamp(min=1).to(torch.float64)
    # A number divided by a tensor would be multiplied by its reciprocal, which rounds twice.
    scale = torch.full_like(reach, 255.0) / reach
    table = (levels * scale + -low * scale).trunc()
    return _look_up(pixels, torch.where(high > low, table, levels.to(torch.float64)))


def _equalize(pixels: Tensor, _: float, __: str) -> Tensor:
    counts, levels = _histogram(pixels), _levels(pixels)
    present = counts > 0
    last = torch.where(present, levels, 0).amax(2, keepdim=True)
    step = (counts.sum(2, keepdim=True) - counts.gather(2, last)) // 255
    table = (step // 2 + counts.cumsum(2) - counts) // step.clamp(min=1)
    return _look_up(pixels, torch.where((step > 0) & (present.sum(2, keepdim=True) > 1), table, levels))


def _affine(pixels: Tensor, matrix: tuple[float, ...], interpolation: str) -> Tensor:
    """Pixel (x, y) of the result is that at `matrix` times (x, y) + 1/2; what lies outside the frame is grey."""
    height, width = pixels.shape[1:3]
    a, b, c, d, e, f = matrix
    x = torch.arange(width, dtype=torch.float64, device=pixels.device) + 0.5
    y = torch.arange(height, dtype=torch.float64, device=pixels.device)[:, None] + 0.5
    across, down = a * x + b * y + c, d * x + e * y + f
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    left, top = (across - 0.5).floor(), (down - 0.5).floor()
    weights = _linear if interpolation == "bilinear" else _cubic
    columns, shares_across = weights(left.to(torch.int64), across - 0.5 - left)
    rows, shares_down = weights(top.to(torch.int64), down - 0.5 - top)
    values = pixels.to(torch.float64)
    total = torch.zeros_like(values)
    for row, share_down in zip(rows, shares_down, strict=True):
        for column, share_across in zip(columns, shares_across, strict=True):
            picked = values[:, row.clamp(0, height - 1), column.clamp(0, width - 1)]
            total += picked * (share_down * share_across)[..., None]
    # A hair is added since these sums round apart from Pillow's, which also cuts to whole levels.
    moved = (total + 1e-9).clamp(0, 255).to(torch.uint8)
    return torch.where(inside[..., None], moved, GREY)


def _linear(first: Tensor, part: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return (first, first + 1), (1 - part, part)


def _cubic(first: Tensor, part: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Weights of the cubic with slope -1, Pillow's for transformations."""
    square, cube = part**2, part**3
    weights = (-part + 2 * square - cube, 1 - 2 * square + cube, part + square - cube, -square + cube)
    return (first - 1, first, first + 1, first + 2), weights


def _rotate(pixels: Tensor, angle: float, interpolation: str) -> Tensor:
    angle %= 360.0
    if angle == 0:
        return pixels
    height, width = pixels.shape[1:3]
    cos, sin = round(math.cos(-math.radians(angle)), 15), round(math.sin(-math.radians(angle)), 15)
    x, y = width / 2, height / 2
    return _affine(pixels, (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y), interpolation)


def _posterize(pixels: Tensor, bits: float, _: str) -> Tensor:
    return pixels & (0xFF << (8 - max(1, int(bits))) & 0xFF)


Apply = Callable[[Tensor, float, str], Tensor]
APPLY: dict[str, Apply] = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "invert": lambda pixels, _, __: 255 - pixels,
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": lambda pixels, threshold, _: _solarize(pixels, threshold),
    "solarize_add": lambda pixels, amount, _: _solarize_add(pixels, amount),
    "color": lambda pixels, factor, _: _saturation(pixels, factor),
    "contrast": lambda pixels, factor, _: _contrast(pixels, factor),
    "brightness": lambda pixels, factor, _: _brightness(pixels, factor),
    "sharpness": lambda pixels, factor, _: _sharpness(pixels, factor),
    "shear_x": lambda pixels, slope, how: _affine(pixels, (1, slope, 0, 0, 1, 0), how),
    "shear_y": lambda pixels, slope, how: _affine(pixels, (1, 0, 0, slope, 1, 0), how),
    "translate_x": lambda pixels, share, how: _affine(pixels, (1, 0, share * pixels.shape[2], 0, 1, 0), how),
    "translate_y": lambda pixels, share, how: _affine(pixels, (1, 0, 0, 0, 1, share * pixels.shape[1]), how),
}
