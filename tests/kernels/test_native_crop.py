"""The native crop and resize against Pillow's: equal to the bit for every size, box, filter, flip and line pitch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import kernels.native as native
from kernels.native.crop import FILTERS, crop_resize

pytestmark = pytest.mark.skipif(not native.status()[0], reason=native.status()[1])
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

Box = tuple[float, float, float, float]


def frame(width: int, height: int, padding: int, seed: int, *, hard: bool = False) -> NDArray[np.uint8]:
    """Noise, or black and white; the last line has no padding behind it."""
    pixels = np.random.default_rng(seed).integers(0, 256, height * (3 * width + padding) - padding, dtype=np.uint8)
    if hard:
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
    return np.lib.stride_tricks.as_strided(pixels, (height, width, 3), (3 * width + padding, 3, 1))


def by_pillow(pixels: NDArray[np.uint8], box: Box, size: int, interpolation: str, flip: bool) -> NDArray[np.uint8]:
    image = Image.fromarray(np.ascontiguousarray(pixels)).resize((size, size), RESAMPLE[interpolation], box=box)
    return np.asarray(image)[:, ::-1] if flip else np.asarray(image)


@st.composite
def spans(draw: st.DrawFn, pixels: int, size: int) -> tuple[float, float]:
    """Part of an axis: any, of whole pixels, or one that is copied."""
    kind = draw(st.sampled_from(["any", "whole", "copied"]))
    if kind == "copied" and size <= pixels:
        start = draw(st.integers(0, pixels - size))
        return start, start + size
    if kind == "any":
        ends = sorted(draw(st.floats(0, pixels, width=32)) for _ in range(2))
        if ends[1] - ends[0] > 1e-3:
            return ends[0], ends[1]
    start = draw(st.integers(0, pixels - 1))
    return start, draw(st.integers(start + 1, pixels))


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_results_equal_pillow_to_the_bit(data: st.DataObject) -> None:
    width, height, size = (data.draw(st.integers(1, most)) for most in (150, 150, 70))
    across, down = data.draw(spans(width, size)), data.draw(spans(height, size))
    box = (across[0], down[0], across[1], down[1])
    interpolation = data.draw(st.sampled_from(sorted(FILTERS)))
    flip, hard = data.draw(st.booleans()), data.draw(st.booleans())
    frames = [frame(width, height, data.draw(st.integers(0, 40)), 0, hard=hard)]
    frames.append(frame(width, height, frames[0].strides[0] - 3 * width, 1, hard=hard))
    outputs = np.zeros((2, size, size, 3), dtype=np.uint8)
    crop_resize(frames, box, outputs, interpolation=interpolation, flip=flip)
    for pixels, out in zip(frames, outputs, strict=True):
        assert np.array_equal(out, by_pillow(pixels, box, size, interpolation, flip))


@pytest.mark.parametrize("interpolation", sorted(FILTERS))
@pytest.mark.parametrize(("width", "height", "size"), [(224, 224, 160), (1920, 1080, 160), (300, 2000, 31)])
def test_large_frames_equal_pillow_too(width: int, height: int, size: int, interpolation: str) -> None:
    pixels = frame(width, height, 32, 2)
    box = (0.03 * width, 0.11 * height, 0.97 * width, 0.93 * height)
    out = np.zeros((1, size, size, 3), dtype=np.uint8)
    crop_resize([pixels], box, out, interpolation=interpolation, flip=True)
    assert np.array_equal(out[0], by_pillow(pixels, box, size, interpolation, True))


def test_pillow_shrinks_a_tall_frame_in_height_first() -> None:
    """Both orders differ in places; this pins the one that the library follows."""
    pixels = frame(50, 140, 0, 3)
    across = Image.fromarray(pixels).resize((40, 140), Image.Resampling.BILINEAR)
    down = Image.fromarray(pixels).resize((50, 40), Image.Resampling.BILINEAR)
    out = np.zeros((1, 40, 40, 3), dtype=np.uint8)
    crop_resize([pixels], (0, 0, 50, 140), out, interpolation="bilinear", flip=False)
    assert np.array_equal(out[0], np.asarray(down.resize((40, 40), Image.Resampling.BILINEAR)))
    assert not np.array_equal(out[0], np.asarray(across.resize((40, 40), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize(
    "box", [(-0.1, 0, 8, 8), (0, 0, 8.001, 8), (0, 0, 8, 9), (4, 0, 4, 8), (5, 0, 4, 8), (0, float("nan"), 8, 8)]
)
def test_a_box_outside_is_refused(box: Box) -> None:
    with pytest.raises(ValueError, match="box: expected a part of 8 x 8 pixels"):
        crop_resize([frame(8, 8, 0, 0)], box, np.zeros((1, 4, 4, 3), np.uint8), interpolation="bilinear", flip=False)


def test_arrays_that_do_not_fit_are_refused() -> None:
    good, out = frame(8, 8, 0, 0), np.zeros((4, 4, 3), np.uint8)

    def crop(frames: list[NDArray[np.uint8]], outputs: list[NDArray[np.uint8]]) -> None:
        crop_resize(frames, (0, 0, 8, 8), outputs, interpolation="bilinear", flip=False)

    crop([], [])
    read_only = out.copy()
    read_only.flags.writeable = False
    for frames in ([good, frame(8, 8, 4, 0)], [good, frame(9, 8, 0, 0)], [good, good.astype(np.int8)]):
        with pytest.raises(ValueError, match="frames: expected uint8"):
            crop(frames, [out, out])
    for wrong in (np.zeros((8, 8, 4), np.uint8), good[:, ::2]):
        with pytest.raises(ValueError, match="frames: expected"):
            crop([wrong], [out])
    for wrong in (out[:, ::-1], read_only, np.zeros((4, 5, 3), np.uint8), out.astype(np.int8)):
        with pytest.raises(ValueError, match="outputs: expected dense writable"):
            crop([good], [wrong])
    with pytest.raises(ValueError, match="expected one for each of 1 frames, got 2"):
        crop([good], [out, out])
