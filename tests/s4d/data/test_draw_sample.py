"""Draws: functions of their key alone, geometry inside the frame, released distributions."""

from __future__ import annotations

import numpy as np
import pytest

from s4d.config_data import AugmentConfig
from s4d.data.draw_sample import DrawKey, EvalView, ViewSpec, eval_draw, train_draw
from s4d.data.draws import SampleDraw

SPEC = ViewSpec(num_frames=4, stride=2, rule="window", size=96)


def key(number: int = 0, **changes: object) -> DrawKey:
    values: dict[str, object] = {"seed": 1, "epoch": 2, "sample_id": f"s{number}", "view": 0, **changes}
    return DrawKey(**values)  # type: ignore[arg-type]


def draw(number: int = 0, size: tuple[int, int] = (128, 112), **augment: object) -> SampleDraw:
    return train_draw(key(number), SPEC, AugmentConfig.model_validate(augment), frame_count=30, size=size)


def test_a_draw_depends_on_its_key_and_not_on_what_was_drawn_before() -> None:
    everything = {"color_jitter": 0.3, "randaug_ops": 3, "erase": 0.5, "interpolation": "random"}
    forwards = [draw(i, **everything) for i in range(20)]
    backwards = [draw(i, **everything) for i in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert len({item.mask_seed for item in forwards} | {item.noise_key for item in forwards}) == 40


@pytest.mark.parametrize("change", [{"seed": 9}, {"epoch": 9}, {"view": 9}, {"sample_id": "other"}])
def test_every_part_of_the_key_matters(change: dict[str, object]) -> None:
    first, second = (
        train_draw(k, SPEC, AugmentConfig(), frame_count=30, size=(64, 64)) for k in (key(), key(**change))
    )
    assert first.mask_seed != second.mask_seed
    assert (first.crop_box, first.frame_indices, first.flip) != (second.crop_box, second.frame_indices, second.flip)


def test_switching_an_augmentation_on_leaves_the_other_draws_alone() -> None:
    plain, full = draw(3), draw(3, color_jitter=0.4, randaug_ops=2, erase=1.0)
    assert (plain.crop_box, plain.frame_indices, plain.mask_seed) == (full.crop_box, full.frame_indices, full.mask_seed)


@pytest.mark.parametrize("size", [(128, 112), (40, 300), (300, 40), (33, 33), (8, 9)])
@pytest.mark.parametrize("resize_to", [None, 110])
@pytest.mark.parametrize("crop", ["random_resized", "random", "center"])
@pytest.mark.parametrize("resize", ["square", "short_side"])
def test_crops_lie_inside_the_resized_frame(
    size: tuple[int, int], resize_to: int | None, crop: str, resize: str
) -> None:
    for number in range(20):
        item = draw(number, size, resize=resize, resize_to=resize_to, crop=crop, crop_area=(0.08, 1.0))
        left, top, width, height = item.crop_box
        assert min(left, top) >= 0
        assert min(width, height) > 0
        assert left + width <= item.resized[0] + 0.51
        assert top + height <= item.resized[1] + 0.51


def test_resizing_keeps_the_aspect_or_squashes_as_released() -> None:
    assert draw(size=(200, 100), resize_to=50).resized == (100, 50)
    assert draw(size=(200, 100), resize="square", resize_to=50).resized == (50, 50)
    assert draw(size=(200, 100)).resized == (200, 100)


def test_random_resized_crops_have_the_asked_areas_and_aspects() -> None:
    boxes = [draw(i, (400, 400), crop_area=(0.2, 0.6)).crop_box for i in range(400)]
    areas = np.array([box[2] * box[3] / 400**2 for box in boxes])
    aspects = np.array([box[2] / box[3] for box in boxes])
    assert 0.19 < areas.min() < 0.23
    assert 0.57 < areas.max() < 0.61
    # A uniform area over (0.2, 0.6) has mean 0.4; 400 draws: standard deviation of the mean 0.006.
    assert abs(areas.mean() - 0.4) < 0.03
    assert 0.74 < aspects.min() < 0.8
    assert 1.27 < aspects.max() < 1.35


def test_an_impossible_crop_falls_back_to_the_centre() -> None:
    left, top, width, height = draw(size=(300, 20), crop_area=(0.9, 1.0)).crop_box
    assert (left, top, width, height) == pytest.approx(((300 - 80 / 3) / 2, 0, 80 / 3, 20))


def test_voxceleb2_window_is_the_top_centre() -> None:
    spec = ViewSpec(num_frames=4, stride=2, rule="window", size=96, window="voxceleb2")
    augment = AugmentConfig(crop="center", resize_to=None)
    item = train_draw(key(), spec, augment, frame_count=30, size=(224, 224))
    assert item.crop_box == pytest.approx((32, 0, 160, 160))
    for number in range(50):
        augment = AugmentConfig(resize_to=192, crop_area=(0.08, 1.0))
        item = train_draw(key(number), spec, augment, frame_count=30, size=(224, 224))
        scale = item.resized[0] / 224
        left, top, width, height = (value / scale for value in item.crop_box)
        assert left >= 32 - 1e-6
        assert left + width <= 192 + 1
        assert top + height <= 160 + 1


def test_erased_boxes_have_the_released_sizes_and_probability() -> None:
    boxes = [draw(i, erase=0.25).erase_box for i in range(1000)]
    given = [box for box in boxes if box is not None]
    # 1000 draws at 0.25: standard deviation 13.7.
    assert 180 < len(given) < 320
    for top, left, bottom, right in given:
        assert 0 <= top < bottom <= 96
        assert 0 <= left < right <= 96
        assert 0.015 < (bottom - top) * (right - left) / 96**2 < 0.36


def test_what_is_off_is_off() -> None:
    item = draw(flip=0.0)
    assert (item.jitter, item.color_ops, item.erase_box, item.flip) == (None, (), None, False)
    assert draw(flip=1.0).flip


def test_jitter_factors_are_within_reach() -> None:
    factors = np.array([draw(i, color_jitter=0.4).jitter for i in range(200)])
    assert 0.6 <= factors.min() < 0.63
    assert 1.37 < factors.max() <= 1.4


def test_test_views_are_squares_at_their_place() -> None:
    places = [
        eval_draw(key(), SPEC, EvalView(spatial=(i, 3)), resize="short_side", frame_count=30, size=(200, 100)).crop_box
        for i in range(3)
    ]
    assert places == [(0, 0, 96, 96), (48, 0, 96, 96), (96, 0, 96, 96)]
    centre = eval_draw(key(), SPEC, EvalView(), resize="short_side", frame_count=30, size=(100, 200))
    assert (centre.resized, centre.crop_box) == ((96, 192), (0, 48, 96, 96))
    squashed = eval_draw(key(), SPEC, EvalView(), resize="square", frame_count=30, size=(100, 200))
    assert (squashed.resized, squashed.crop_box) == ((96, 96), (0, 0, 96, 96))


def test_flip_is_fair() -> None:
    flips = sum(draw(i).flip for i in range(1000))
    # 1000 draws at 0.5: standard deviation 16.
    assert abs(flips - 500) < 5 * 16


@pytest.mark.parametrize("crop", ["random", "center"])
def test_crops_of_a_resized_frame_lie_on_whole_pixels(crop: str) -> None:
    """So that a frame of that size is copied, not resampled; every place is reached, the borders too."""
    augment = AugmentConfig(crop=crop, resize_to=36)  # type: ignore[arg-type]
    spec = ViewSpec(num_frames=1, stride=1, rule="window", size=32)
    places = set()
    for epoch in range(200):
        key = DrawKey(seed=0, epoch=epoch, sample_id="a", view=0)
        draw = train_draw(key, spec, augment, frame_count=1, size=(74, 72))
        assert draw.resized == (37, 36)
        assert draw.crop_box[2:] == (32, 32)
        places.add(draw.crop_box[:2])
    assert places == ({(x, y) for x in range(6) for y in range(5)} if crop == "random" else {(3, 2)})
