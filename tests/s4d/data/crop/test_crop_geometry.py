from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from s4d.data.crop.geometry import (
    FACE_POINTS,
    apply,
    box_transform,
    inverse,
    left_to_right,
    points_transform,
    similarity,
    target_points,
)
from s4d.data.crop.recipe import CropRecipe
from s4d.data.crop.warp import warp


def turned(angle: float, scale: float, shift: tuple[float, float]) -> NDArray[np.float64]:
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 9),
    st.floats(-math.pi, math.pi),
    st.floats(0.05, 20),
    st.floats(-500, 500),
)
def test_known_transforms_are_found(seed: int, count: int, angle: float, scale: float, shift: float) -> None:
    points = np.random.default_rng(seed).uniform(0, 100, (count, 2))
    truth = turned(angle, scale, (shift, -shift))
    np.testing.assert_allclose(similarity(points, apply(truth, points)), truth, atol=1e-6 * (1 + abs(shift)), rtol=1e-6)


def test_least_squares_over_noisy_points() -> None:
    generator = np.random.default_rng(0)
    points = FACE_POINTS * 100
    target = apply(turned(0.3, 1.4, (5, 8)), points) + generator.normal(0, 2, points.shape)
    best = similarity(points, target)
    least = np.square(apply(best, points) - target).sum()
    for change in generator.normal(0, 1e-3, (200, 4)):
        a, b = best[0, 0] + change[0], best[1, 0] + change[1]
        near = np.array([[a, -b, best[0, 2] + change[2]], [b, a, best[1, 2] + change[3]]])
        assert np.square(apply(near, points) - target).sum() >= least


def test_never_a_mirror_image() -> None:
    mirrored = FACE_POINTS * np.array([-1.0, 1.0])
    assert np.linalg.det(similarity(mirrored, FACE_POINTS)[:, :2]) > 0


def test_points_that_fall_together() -> None:
    with pytest.raises(ValueError, match="fall together"):
        similarity(np.ones((5, 2)), FACE_POINTS)


@pytest.mark.parametrize(("margin", "eye_line", "size"), [(0.0, 0.46, 112), (0.3, 0.4, 224), (1.0, 0.5, 96)])
def test_eyes_where_the_recipe_says(margin: float, eye_line: float, size: int) -> None:
    recipe = CropRecipe(margin=margin, eye_line=eye_line, size=size)
    eyes = np.array([[310.0, 205.5], [388.0, 180.25]])
    placed = apply(points_transform(eyes, recipe), eyes)
    np.testing.assert_allclose(placed[:, 1], eye_line * size, atol=1e-9)
    assert placed[:, 0].mean() == pytest.approx(size / 2)
    assert placed[1, 0] - placed[0, 0] == pytest.approx(size / (1 + 2 * margin) * 0.31474, rel=1e-3)
    np.testing.assert_allclose(placed, target_points(recipe)[:2], atol=1e-9)


def test_five_points() -> None:
    recipe = CropRecipe(align="points", size=112, margin=0.0)
    points = apply(turned(-0.4, 3.0, (60, 90)), FACE_POINTS * 50)
    np.testing.assert_allclose(apply(points_transform(points, recipe), points), target_points(recipe), atol=1e-9)


def test_box_becomes_a_square_with_its_margin() -> None:
    transform = box_transform(np.array([10.0, 20.0, 50.0, 100.0]), CropRecipe(align="none", size=160, margin=0.25))
    corners = apply(inverse(transform), np.array([[0.0, 0.0], [160.0, 160.0]]))
    np.testing.assert_allclose(corners, [[30 - 60, 60 - 60], [30 + 60, 60 + 60]])


@pytest.mark.parametrize("count", [2, 5])
def test_sides_named_the_other_way_round(count: int) -> None:
    swapped = FACE_POINTS[[1, 0, 2, 4, 3]][:count]
    np.testing.assert_array_equal(left_to_right(swapped), FACE_POINTS[:count])
    np.testing.assert_array_equal(left_to_right(FACE_POINTS[:count]), FACE_POINTS[:count])


def test_warp_without_change() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp(frame, turned(0, 1, (0, 0)), 64, "black"), frame)
    shifted = warp(frame, turned(0, 1, (-10, -20)), 32, "black")
    np.testing.assert_array_equal(shifted, frame[20:52, 10:42])


def test_warp_turns_by_a_quarter() -> None:
    frame = np.random.default_rng(1).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    quarter = warp(frame, turned(math.pi / 2, 1, (48, 0)), 48, "black")
    # Pillow cuts its sums to whole levels.
    np.testing.assert_allclose(quarter.astype(int), np.rot90(frame, -1), atol=1)


@pytest.mark.parametrize("edge", ["reflect", "black"])
def test_warp_outside_of_the_frame(edge: str) -> None:
    frame = np.random.default_rng(2).integers(1, 256, (20, 30, 3), dtype=np.uint8)
    out = warp(frame, turned(0, 1, (30, 45)), 120, edge)  # type: ignore[arg-type]
    np.testing.assert_array_equal(out[45:65, 30:60], frame)
    if edge == "black":
        rest = out.copy()
        rest[45:65, 30:60] = 0
        assert not rest.any()
    else:
        np.testing.assert_array_equal(out[45:65, 0:30], frame[:, ::-1])
        np.testing.assert_array_equal(out[45:65, 60:90], frame[:, ::-1])
        np.testing.assert_array_equal(out[5:25, 30:60], frame)
        np.testing.assert_array_equal(out[65:85, 30:60], frame[::-1])


@pytest.mark.parametrize("edge", ["reflect", "black"])
@pytest.mark.parametrize("shrink", [3.7, 4.0, 9.3, 1000.0])
def test_warp_that_shrinks_much(shrink: float, edge: str) -> None:
    """A ramp stays a ramp however coarse; a crop a thousand times the frame is no larger job."""
    ramp = np.linspace(0, 250, 600)[None, :, None].repeat(500, 0).repeat(3, 2).astype(np.uint8)
    middle = (-300 / shrink + 32, -250 / shrink + 32)
    out = warp(ramp, turned(0, 1 / shrink, middle), 64, edge)[32, :, 0].astype(float)  # type: ignore[arg-type]
    source = (np.arange(64) + 0.5 - middle[0]) * shrink
    inside = (source > 2 * shrink) & (source < 600 - 2 * shrink)
    np.testing.assert_allclose(out[inside], (source[inside] - 0.5) * 250 / 599, atol=1.6)
    if edge == "black":
        assert not out[(source < 0) | (source > 600)].any()


def test_warp_averages_what_it_shrinks() -> None:
    checkers = (np.indices((240, 240)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    small = warp(checkers, turned(0.4, 0.25, (20, -10)), 40, "reflect")
    assert abs(small.astype(int) - 127).max() <= 24
