"""Images and folders of frames reach the crop as views of the memory that Pillow decoded them into."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from s4d.data import decode_image
from s4d.data import resample as resampling
from s4d.data.decode_image import open_files
from s4d.data.draws import SampleDraw
from s4d.data.media import open_media
from s4d.data.pillow_memory import STEP, packed, picture_of, rgb_pixels
from s4d.data.transform import apply_draw

Pixels = NDArray[np.uint8]


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def address(pixels: Pixels) -> int:
    return int(pixels.__array_interface__["data"][0])


def memory_of(image: Image.Image) -> range:
    """Where Pillow keeps a picture, as another reader of the Arrow interface finds it."""
    levels = pa.array(image).values
    return range(levels.buffers()[1].address, levels.buffers()[1].address + len(levels))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Image.Image]:
    """The images that are opened, in order."""
    images: list[Image.Image] = []
    really = decode_image._opened

    def record(path: Path) -> Image.Image:
        images.append(really(path))
        return images[-1]

    monkeypatch.setattr(decode_image, "_opened", record)
    return images


@pytest.fixture
def cropped(monkeypatch: pytest.MonkeyPatch) -> list[Pixels]:
    """The frames that the resampling was given."""
    frames: list[Pixels] = []
    really = resampling.resample

    def record(given: list[Pixels], *args: Any, **options: Any) -> None:
        frames.extend(given)
        really(given, *args, **options)

    monkeypatch.setattr("s4d.data.transform.resample", record)
    return frames


def draw_of(count: int, size: tuple[int, int]) -> SampleDraw:
    return SampleDraw(
        frame_indices=tuple(range(count)),
        resized=size,
        crop_box=(2, 3, size[0] - 5, size[1] - 7),
        flip=True,
        interpolation="bicubic",
        jitter=None,
        color_ops=(),
        erase_box=None,
        mask_seed=0,
        noise_key=0,
    )


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.webp", "a.tif"])
@pytest.mark.parametrize("size", [(224, 224), (2100, 2050)])
def test_the_crop_of_an_image_reads_what_pillow_decoded(
    tmp_path: Path, name: str, size: tuple[int, int], opened: list[Image.Image], cropped: list[Pixels]
) -> None:
    Image.new("RGB", size, (9, 99, 199)).save(tmp_path / name)
    media = open_media(tmp_path / name, "image")
    opened.clear()
    apply_draw(media.frames([0]), draw_of(1, size), np.zeros((1, 32, 32, 3), np.uint8))
    assert len(opened) == len(cropped) == 1
    memory = memory_of(opened[0])
    assert address(cropped[0]) == memory.start
    assert cropped[0].strides == (STEP * size[0], STEP, 1) and len(memory) == STEP * size[0] * size[1]
    assert not cropped[0].flags.writeable


def test_the_crop_of_a_folder_reads_what_pillow_decoded(
    tmp_path: Path, opened: list[Image.Image], cropped: list[Pixels]
) -> None:
    for number in range(4):
        noise(50, 40).save(tmp_path / f"{number}.jpg")
    media = open_media(tmp_path, "frames")
    opened.clear()
    out = np.zeros((4, 16, 16, 3), np.uint8)
    apply_draw(media.frames(range(4)), draw_of(4, (50, 40)), out)
    assert [address(frame) for frame in cropped] == [memory_of(image).start for image in opened]
    assert len(cropped) == 4 and out.any()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (33, 20), (800, 640)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_pixels_are_those_of_pillow(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    noise(*size, mode).save(path)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    frame = open_files((path,)).frames([0])[0]
    assert np.array_equal(frame, expected) and frame.strides[1:] == (STEP, 1)


def test_a_frame_outlives_its_image() -> None:
    image = noise(300, 200)
    expected = np.asarray(image).copy()
    frame = rgb_pixels(image)
    part = frame[10:, 5:]
    del image, frame
    gc.collect()
    others = [Image.new("RGB", (300, 200), level) for level in range(20)]
    assert np.array_equal(part, expected[10:, 5:]) and others


@pytest.fixture
def small_blocks() -> Iterator[None]:
    """Pillow as it is after it has found no memory for an image in one piece."""
    size = Image.core.get_block_size()
    Image.core.set_block_size(4096)
    yield
    Image.core.set_block_size(size)


@pytest.mark.usefixtures("small_blocks")
def test_an_image_in_pieces_is_copied(tmp_path: Path) -> None:
    noise(64, 48).save(tmp_path / "a.png")
    frame = open_files((tmp_path / "a.png",)).frames([0])[0]
    assert frame.strides == (3 * 64, 3, 1)
    assert np.array_equal(frame, np.asarray(noise(64, 48)))


def test_the_way_back_is_the_image_itself() -> None:
    image = noise(40, 30)
    frame = rgb_pixels(image)
    assert picture_of(frame) is image
    assert packed(frame).strides == (120, 3, 1) and np.array_equal(packed(frame), frame)
    # A part of a frame, and lines with padding, are pictures of their own.
    for other in (frame[3:, 2:], np.zeros((30, 48, 3), np.uint8)[:, :40]):
        assert np.array_equal(np.asarray(picture_of(other)), other)
        assert packed(other) is other
