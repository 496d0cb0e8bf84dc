"""RandAugment in its released form: fifteen operations whose strength grows with the magnitude, on uint8 images.

`magnitude` of a `ColorOp` is the argument of the operation itself: degrees, bits, a threshold, a factor, a slope or a
share of the width. Areas that a geometric operation uncovers are filled with grey 128.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from s4d.data.draws import ColorOp

FILL = (128, 128, 128)
LEVELS = 10.0


def _affine(image: Image.Image, matrix: tuple[float, ...], resample: Image.Resampling) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=FILL)


def _solarize_add(image: Image.Image, amount: float) -> Image.Image:
    table = [min(255, value + int(amount)) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


Apply = Callable[[Image.Image, float, Image.Resampling], Image.Image]
APPLY: dict[str, Apply] = {
    "auto_contrast": lambda image, _, __: ImageOps.autocontrast(image),
    "equalize": lambda image, _, __: ImageOps.equalize(image),
    "invert": lambda image, _, __: ImageOps.invert(image),
    "rotate": lambda image, angle, resample: image.rotate(angle, resample=resample, fillcolor=FILL),
    "posterize": lambda image, bits, _: ImageOps.posterize(image, max(1, int(bits))),
    "solarize": lambda image, threshold, _: ImageOps.solarize(image, int(threshold)),
    "solarize_add": lambda image, amount, _: _solarize_add(image, amount),
    "color": lambda image, factor, _: ImageEnhance.Color(image).enhance(factor),
    "contrast": lambda image, factor, _: ImageEnhance.Contrast(image).enhance(factor),
    "brightness": lambda image, factor, _: ImageEnhance.Brightness(image).enhance(factor),
    "sharpness": lambda image, factor, _: ImageEnhance.Sharpness(image).enhance(factor),
    "shear_x": lambda image, slope, resample: _affine(image, (1, slope, 0, 0, 1, 0), resample),
    "shear_y": lambda image, slope, resample: _affine(image, (1, 0, 0, slope, 1, 0), resample),
    "translate_x": lambda image, share, resample: _affine(image, (1, 0, share * image.width, 0, 1, 0), resample),
    "translate_y": lambda image, share, resample: _affine(image, (1, 0, 0, 0, 1, share * image.height), resample),
}

# Argument of each operation from the level in [0, 1] and a random sign.
ARGUMENT: dict[str, Callable[[float, int], float]] = {
    "auto_contrast": lambda level, sign: 0.0,
    "equalize": lambda level, sign: 0.0,
    "invert": lambda level, sign: 0.0,
    "rotate": lambda level, sign: sign * 30.0 * level,
    "posterize": lambda level, sign: float(4 - int(4 * level)),
    "solarize": lambda level, sign: float(256 - min(256, int(256 * level))),
    "solarize_add": lambda level, sign: float(min(128, int(110 * level))),
    "color": lambda level, sign: 1.0 + sign * 0.9 * level,
    "contrast": lambda level, sign: 1.0 + sign * 0.9 * level,
    "brightness": lambda level, sign: 1.0 + sign * 0.9 * level,
    "sharpness": lambda level, sign: 1.0 + sign * 0.9 * level,
    "shear_x": lambda level, sign: sign * 0.3 * level,
    "shear_y": lambda level, sign: sign * 0.3 * level,
    "translate_x": lambda level, sign: sign * 0.45 * level,
    "translate_y": lambda level, sign: sign * 0.45 * level,
}
OPERATIONS = tuple(APPLY)


def draw_operations(
    rng: np.random.Generator, count: int, *, magnitude: float, std: float, probability: float
) -> tuple[ColorOp, ...]:
    """`count` operations drawn with replacement, each kept with `probability`, at a gaussian magnitude within 0..10."""
    chosen = []
    for _ in range(count):
        name = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        keep = rng.random() < probability
        level = min(LEVELS, max(0.0, float(rng.normal(magnitude, std)))) / LEVELS
        sign = 1 if rng.random() < 0.5 else -1
        if keep:
            chosen.append(ColorOp(name=name, magnitude=ARGUMENT[name](level, sign)))
    return tuple(chosen)


def apply_operations(image: Image.Image, operations: tuple[ColorOp, ...], resample: Image.Resampling) -> Image.Image:
    """The operations one after the other on one RGB image."""
    for operation in operations:
        image = APPLY[operation.name](image, operation.magnitude, resample)
    return image
