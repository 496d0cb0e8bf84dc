"""The native crop and resize against Pillow's: equal to the bit for every size, box, filter, flip and memory layout."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import sys

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

# PROT_NONE of mprotect.
NO_ACCESS = 0

Box = tuple[float, float, float, float]


def frame(width: int, height: int, padding: int, seed: int, *, step: int = 3, hard: bool = False) -> NDArray[np.uint8]:
    """Noise, or black and white, between the pixels too where they are 4 bytes apart; nothing behind the last pixel."""
    pitch = step * width + padding
    memory = (height - 1) * pitch + step * (width - 1) + 3
    pixels = np.random.default_rng(seed).integers(0, 256, memory, dtype=np.uint8)
    if hard:
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
    return np.lib.stride_tricks.as_strided(pixels, (height, width, 3), (pitch, step, 1))


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
    padding, step = data.draw(st.integers(0, 40)), data.draw(st.sampled_from([3, 4]))
    frames = [frame(width, height, padding, seed, step=step, hard=hard) for seed in (0, 1)]
    outputs = np.zeros((2, size, size, 3), dtype=np.uint8)
    crop_resize(frames, box, outputs, interpolation=interpolation, flip=flip)
    for pixels, out in zip(frames, outputs, strict=True):
        assert np.array_equal(out, by_pillow(pixels, box, size, interpolation, flip))


@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.parametrize("interpolation", sorted(FILTERS))
@pytest.mark.parametrize(("width", "height", "size"), [(224, 224, 160), (1920, 1080, 160), (300, 2000, 31)])
def test_large_frames_equal_pillow_too(width: int, height: int, size: int, interpolation: str, step: int) -> None:
    pixels = frame(width, height, 32, 2, step=step)
    box = (0.03 * width, 0.11 * height, 0.97 * width, 0.93 * height)
    out = np.zeros((1, size, size, 3), dtype=np.uint8)
    crop_resize([pixels], box, out, interpolation=interpolation, flip=True)
    assert np.array_equal(out[0], by_pillow(pixels, box, size, interpolation, True))


@pytest.fixture
def guarded() -> NDArray[np.uint8]:
    """Memory between two pages that may not be touched."""
    page = mmap.PAGESIZE
    memory = np.frombuffer(mmap.mmap(-1, 4 * page), np.uint8)
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for first in (0, 3 * page):
        assert protect(memory.ctypes.data + first, page, NO_ACCESS) == 0
    return memory[page : 3 * page]


# Both axes copied, one, none; the height first; single pixels.
SHAPES = [
    (16, 16, 16),
    (16, 40, 16),
    (40, 16, 16),
    (23, 31, 16),
    (6, 90, 5),
    (1, 1, 1),
    (1, 1, 7),
    (1, 50, 3),
    (50, 1, 3),
]


@pytest.mark.skipif(sys.platform != "linux", reason="guards memory as Linux does")
@pytest.mark.parametrize(("width", "height", "size"), SHAPES)
@pytest.mark.parametrize("step", [3, 4])
def test_nothing_around_a_frame_is_read(
    guarded: NDArray[np.uint8], width: int, height: int, size: int, step: int
) -> None:
    """A read too far ends this process."""
    source = frame(width, height, 5, 4, step=step)
    length = (height - 1) * source.strides[0] + step * (width - 1) + 3
    for memory in (guarded[:length], guarded[len(guarded) - length :]):
        pixels = np.lib.stride_tricks.as_strided(memory, source.shape, source.strides)
        pixels[:] = source
        for interpolation, flip in itertools.product(sorted(FILTERS), (False, True)):
            for box in ((0, 0, width, height), (0.3 * width, 0.3 * height, width, height)):
                out = np.zeros((1, size, size, 3), np.uint8)
                crop_resize([pixels], box, out, interpolation=interpolation, flip=flip)
                assert np.array_equal(out[0], by_pillow(source, box, size, interpolation, flip))


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
    for frames in (
        [good, frame(8, 8, 4, 0)],
        [good, frame(9, 8, 0, 0)],
        [good, good.astype(np.int8)],
        [good, frame(8, 8, 0, 0, step=4)],
    ):
        with pytest.raises(ValueError, match="frames: expected uint8"):
            crop(frames, [out, out])
    for wrong in (np.zeros((8, 8, 4), np.uint8), good[:, ::2], good[:, ::-1], frame(8, 8, 0, 0, step=5)):
        with pytest.raises(ValueError, match="frames: expected"):
            crop([wrong], [out])
    for wrong in (out[:, ::-1], read_only, np.zeros((4, 5, 3), np.uint8), out.astype(np.int8)):
        with pytest.raises(ValueError, match="outputs: expected dense writable"):
            crop([good], [wrong])
    with pytest.raises(ValueError, match="expected one for each of 1 frames, got 2"):
        crop([good], [out, out])
