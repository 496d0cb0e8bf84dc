"""RandAugment: every operation does what its name says, frequencies and strengths as released."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from s4d.data.counter import generator
from s4d.data.draws import ColorOp
from s4d.data.randaug import APPLY, ARGUMENT, OPERATIONS, apply_operations, draw_operations

BILINEAR = Image.Resampling.BILINEAR


def ramp() -> Image.Image:
    """A picture without symmetry, dark to light from left to right, with one bright spot."""
    level = np.linspace(20, 220, 32)
    pixels = np.stack([np.tile(level, (32, 1)), np.tile(level[:, None], (1, 32)), np.full((32, 32), 90.0)], axis=-1)
    pixels[10:14, 5:9] = 240
    return Image.fromarray(pixels.astype(np.uint8))


def apply(name: str, magnitude: float) -> np.ndarray:
    return np.asarray(apply_operations(ramp(), (ColorOp(name=name, magnitude=magnitude),), BILINEAR)).astype(int)


def test_the_set_has_the_fifteen_operations() -> None:
    assert len(OPERATIONS) == 15
    assert set(ARGUMENT) == set(APPLY)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_every_operation_changes_the_picture_at_full_strength(name: str, sign: int) -> None:
    assert np.abs(apply(name, ARGUMENT[name](1.0, sign)) - np.asarray(ramp())).mean() > 0.2


@pytest.mark.parametrize(
    ("name", "level", "sign", "argument"),
    [
        ("rotate", 0.7, -1, -21.0),
        ("posterize", 0.7, 1, 2.0),
        ("solarize", 0.7, 1, 77.0),
        ("solarize_add", 0.7, 1, 77.0),
        ("color", 0.7, 1, 1.63),
        ("brightness", 0.5, -1, 0.55),
        ("shear_x", 0.9, 1, 0.27),
        ("translate_y", 0.9, -1, -0.405),
    ],
)
def test_arguments_grow_with_the_level(name: str, level: float, sign: int, argument: float) -> None:
    assert ARGUMENT[name](level, sign) == pytest.approx(argument)


def test_simple_operations_by_hand() -> None:
    before = np.asarray(ramp()).astype(int)
    assert (apply("invert", 0) == 255 - before).all()
    assert (apply("solarize", 128) == np.where(before < 128, before, 255 - before)).all()
    assert (apply("solarize_add", 40) == np.where(before < 128, before + 40, before)).all()
    assert (apply("posterize", 3) == before & 0b11100000).all()
    moved = apply("translate_x", 0.25)
    assert (moved[:, :24] == before[:, 8:]).all()
    assert (moved[:, 25:] == 128).all()


def test_draws_follow_probability_and_choose_evenly() -> None:
    drawn = [draw_operations(generator(i), 4, magnitude=7, std=0.5, probability=0.5) for i in range(1500)]
    kept = sum(map(len, drawn))
    # 6000 draws at 0.5: standard deviation 39; each operation 200 of 3000, standard deviation 14.
    assert abs(kept - 3000) < 5 * 39
    counts = Counter(operation.name for operations in drawn for operation in operations)
    assert set(counts) == set(OPERATIONS)
    assert max(abs(count - 200) for count in counts.values()) < 5 * 14


def test_magnitudes_scatter_around_the_asked_one() -> None:
    angles = [
        abs(operation.magnitude) / 3.0
        for i in range(3000)
        for operation in draw_operations(generator(i), 2, magnitude=7, std=0.5, probability=1.0)
        if operation.name == "rotate"
    ]
    # About 400 draws with standard deviation 0.5.
    assert abs(np.mean(angles) - 7) < 0.15
    assert abs(np.std(angles) - 0.5) < 0.1
