"""Colour operations on tensors give what Pillow gives: equal levels, one level apart at most where frames are moved."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from s4d.data.color import APPLY, apply_colors
from s4d.data.draws import ColorOp, SampleDraw
from s4d.data.randaug import ARGUMENT, OPERATIONS
from s4d.data.transform import apply_draw

MOVING = {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}
SIZE = 40


def draw_of(**changes: object) -> SampleDraw:
    values: dict[str, object] = {
        "frame_indices": (0, 1, 2),
        "resized": (SIZE, SIZE),
        "crop_box": (0.0, 0.0, float(SIZE), float(SIZE)),
        "flip": False,
        "interpolation": "bilinear",
        "jitter": None,
        "color_ops": (),
        "erase_box": None,
        "mask_seed": 0,
        "noise_key": 0,
    }
    return SampleDraw(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def clip(picture_of: Callable[..., np.ndarray]) -> np.ndarray:
    """Smooth colours, noise, and one level with a second one in a corner."""
    noise = np.random.default_rng(3).integers(20, 230, (SIZE, SIZE, 3), dtype=np.uint8)
    plain = np.full((SIZE, SIZE, 3), 77, dtype=np.uint8)
    plain[:3, :5] = (9, 200, 78)
    return np.stack([picture_of(1, (SIZE, SIZE)), noise, plain])


def both(clip: np.ndarray, draw: SampleDraw) -> tuple[np.ndarray, np.ndarray]:
    expected = np.empty_like(clip)
    apply_draw(dict(enumerate(clip)), draw, expected)
    pixels = torch.from_numpy(clip.copy())
    apply_colors(pixels, draw)
    return expected.astype(int), pixels.numpy().astype(int)


def test_every_operation_has_its_tensor_form() -> None:
    assert tuple(APPLY) == OPERATIONS


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_equal_pillows(clip: np.ndarray, name: str) -> None:
    changed = 0
    for interpolation in ("bilinear", "bicubic"):
        for level in (0.0, 0.13, 0.7, 0.77, 1.0):
            for sign in (-1, 1):
                operation = ColorOp(name=name, magnitude=ARGUMENT[name](level, sign))
                expected, got = both(clip, draw_of(color_ops=(operation,), interpolation=interpolation))
                assert np.abs(expected - got).max() <= int(name in MOVING), (level, sign, interpolation)
                changed += int((got != clip).any())
    assert changed


@pytest.mark.parametrize("factors", [(1.0, 1.0, 1.0), (0.6, 1.4, 1.4), (1.4, 0.6, 0.6), (1.2, 0.0, 0.9)])
def test_jitter_equals_pillows(clip: np.ndarray, factors: tuple[float, float, float]) -> None:
    expected, got = both(clip, draw_of(jitter=factors))
    assert np.array_equal(expected, got)


def test_operations_follow_one_another_before_the_jitter(clip: np.ndarray) -> None:
    operations = (ColorOp(name="invert", magnitude=0.0), ColorOp(name="posterize", magnitude=2.0))
    expected, got = both(clip, draw_of(color_ops=operations, jitter=(0.8, 1.3, 1.2)))
    assert np.array_equal(expected, got)
    turned, _ = both(clip, draw_of(color_ops=operations[::-1], jitter=(0.8, 1.3, 1.2)))
    assert not np.array_equal(turned, got)


def test_random_draws_equal_pillows(clip: np.ndarray) -> None:
    from s4d.data.randaug import draw_operations

    rng = np.random.default_rng(11)
    for _ in range(40):
        operations = draw_operations(rng, 2, magnitude=7, std=2, probability=1)
        expected, got = both(clip, draw_of(color_ops=operations))
        # A level of difference in one operation may grow in the next.
        if not MOVING & {operation.name for operation in operations}:
            assert np.array_equal(expected, got), operations
