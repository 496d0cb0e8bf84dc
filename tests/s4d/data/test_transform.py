"""Applying a draw: the crop lands where it says, flips mirror, colours are shared by the frames of a clip."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from s4d.data.draws import ColorOp, SampleDraw
from s4d.data.transform import apply_draw, needed_scale

PLAIN = SampleDraw(
    frame_indices=(0,),
    resized=(64, 64),
    crop_box=(0.0, 0.0, 64.0, 64.0),
    flip=False,
    interpolation="bilinear",
    jitter=None,
    color_ops=(),
    erase_box=None,
    mask_seed=0,
    noise_key=0,
)


def noise(seed: int = 0, size: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def applied(frames: dict[int, Image.Image], draw: SampleDraw, size: int) -> NDArray[np.uint8]:
    pixels = np.empty((len(draw.frame_indices), size, size, 3), dtype=np.uint8)
    apply_draw({index: np.asarray(frame) for index, frame in frames.items()}, draw, pixels)
    return pixels


def drawn(**changes: object) -> SampleDraw:
    return dataclasses.replace(PLAIN, **changes)  # type: ignore[arg-type]


def test_a_crop_of_the_output_size_is_an_exact_copy() -> None:
    pixels = applied({0: noise()}, drawn(crop_box=(10.0, 20.0, 32.0, 32.0)), 32)
    assert (pixels[0] == np.asarray(noise())[20:52, 10:42]).all()
    flipped = applied({0: noise()}, drawn(crop_box=(10.0, 20.0, 32.0, 32.0), flip=True), 32)
    assert (flipped == pixels[:, :, ::-1]).all()


def test_one_resampling_agrees_with_resize_then_crop_on_smooth_pictures() -> None:
    ramp = np.linspace(0, 255, 128)
    image = Image.fromarray(np.stack([np.add.outer(ramp, ramp) / 2] * 3, axis=-1).astype(np.uint8))
    once = applied({0: image}, drawn(resized=(80, 80), crop_box=(7.0, 11.0, 40.0, 40.0)), 40)[0]
    twice = np.asarray(image.resize((80, 80), Image.Resampling.BILINEAR).crop((7, 11, 47, 51)))
    # Two roundings against one on a linear ramp: at most one level apart.
    assert np.abs(once.astype(int) - twice).max() <= 1


def test_a_smaller_decoded_frame_gives_the_same_region() -> None:
    ramp = np.tile(np.linspace(0, 255, 256)[None, :, None], (256, 1, 3)).astype(np.uint8)
    draw = drawn(resized=(256, 256), crop_box=(64.0, 64.0, 128.0, 128.0))
    whole = applied({0: Image.fromarray(ramp)}, draw, 32)
    half = applied({0: Image.fromarray(ramp).reduce(2)}, draw, 32)
    assert needed_scale(draw, (256, 256), 32) == 0.25
    assert np.abs(whole.astype(int) - half).max() <= 2


def test_repeated_frames_are_equal_and_in_place() -> None:
    pixels = applied({2: noise(2), 5: noise(5)}, drawn(frame_indices=(2, 2, 5, 5)), 64)
    assert pixels.shape == (4, 64, 64, 3)
    assert (pixels[0] == pixels[1]).all()
    assert (pixels[2] == np.asarray(noise(5))).all()


@pytest.mark.parametrize(
    "change", [{"jitter": (1.3, 0.7, 1.2)}, {"color_ops": (ColorOp(name="rotate", magnitude=9.0),)}]
)
def test_colours_and_operations_are_shared_by_all_frames(change: dict[str, object]) -> None:
    pixels = applied({0: noise(1), 1: noise(1)}, drawn(frame_indices=(0, 1), **change), 64)
    assert (pixels[0] == pixels[1]).all()
    assert (pixels[0] != np.asarray(noise(1))).any()


def test_jitter_of_one_changes_nothing() -> None:
    assert (applied({0: noise()}, drawn(jitter=(1.0, 1.0, 1.0)), 64)[0] == np.asarray(noise())).all()


def test_frames_of_different_sizes_lose_the_same_shares() -> None:
    """Files of a folder need not have one size: each is cropped at the same relative place."""
    ramp = np.tile(np.linspace(0, 255, 128)[None, :, None], (128, 1, 3)).astype(np.uint8)
    frames = {0: Image.fromarray(ramp), 3: Image.fromarray(ramp).reduce(2), 4: Image.fromarray(ramp)}
    pixels = applied(frames, drawn(frame_indices=(0, 3, 4), crop_box=(16.0, 16.0, 32.0, 32.0)), 16)
    assert (pixels[0] == pixels[2]).all()
    assert np.abs(pixels[0].astype(int) - pixels[1]).max() <= 2
