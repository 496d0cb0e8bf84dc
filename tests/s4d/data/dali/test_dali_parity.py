"""DALI's CPU operators against PyAV and Pillow: same frames, crops and flips, pixels within stated bounds.

Decoded images are equal; so are frames of a video if PyAV is told to interpolate colours as DALI does, which this
project does not, for speed: that shows at coloured edges. Crop and resize differ by at most 1 level, except in the two
outermost pixels of a crop that reaches the frame's border: there Pillow leaves out what lies beyond, DALI repeats the
border. Less than one level on average even so, on noise. Levels here keep away from 0 and 255, since Pillow cuts what
a bicubic filter adds beyond them after each of its two passes, DALI after both.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from s4d.data.draws import SampleDraw
from s4d.data.media import Frames, open_media
from s4d.data.transform import apply_draw

pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install 's4d-engine[dali-cu13]'")

from s4d.data.dali.decoder import Decoder
from s4d.data.dali.files import ByteStore, EncodedFile, image_cuts, video_cuts

SIZE = 32
CPU = torch.device("cpu")


def draw_of(indices: tuple[int, ...], box: tuple[float, float, float, float], **changes: object) -> SampleDraw:
    values: dict[str, object] = {
        "frame_indices": indices,
        "resized": (96, 72),
        "crop_box": box,
        "flip": False,
        "interpolation": "bilinear",
        "jitter": None,
        "color_ops": (),
        "erase_box": None,
        "mask_seed": 0,
        "noise_key": 0,
    }
    return SampleDraw(**{**values, **changes})  # type: ignore[arg-type]


def draws_of(*indices: tuple[int, ...]) -> list[SampleDraw]:
    """Four views: shrunk, enlarged, flipped, out to the border and squeezed."""
    return [
        draw_of(indices[0], (3.0, 2.5, 90.0, 66.0)),
        draw_of(indices[1], (40.0, 30.0, 17.5, 19.0), interpolation="bicubic"),
        draw_of(indices[2], (10.0, 0.0, 60.0, 60.0), flip=True),
        draw_of(indices[3], (0.0, 0.0, 96.0, 72.0), flip=True, interpolation="bicubic"),
    ]


def expected(frames: Frames, draws: list[SampleDraw]) -> np.ndarray:
    pixels = np.empty((len(draws), len(draws[0].frame_indices), SIZE, SIZE, 3), dtype=np.uint8)
    for out, draw in zip(pixels, draws, strict=True):
        apply_draw(frames, draw, out)
    return pixels.astype(int)


def assert_close(got: np.ndarray, wanted: np.ndarray) -> None:
    difference = np.abs(got - wanted)
    assert difference[..., 2:-2, 2:-2, :].max() <= 1
    assert difference.mean() <= 1


def by_dali(path: Path, draws: list[SampleDraw], paths: tuple[Path, ...] = ()) -> np.ndarray:
    """Views of a video file, or of the frame files `paths`."""
    store, rows = ByteStore(), range(len(draws))
    if paths:
        wanted = [(paths[index], (), cuts) for index, cuts in image_cuts(draws, "video", rows).items()]
    else:
        wanted = [(path, *video_cuts(draws, "video", rows))]
    files = []
    for one, frames, cuts in wanted:
        begin, end = store.add(one)
        files.append(
            EncodedFile(sample=(0, 0), path=one, video=not paths, begin=begin, end=end, frames=frames, cuts=tuple(cuts))
        )
    pixels = torch.full((len(draws), len(draws[0].frame_indices), SIZE, SIZE, 3), 99, dtype=torch.uint8)
    assert Decoder(CPU, SIZE).fill(files, store.join(), {"video": pixels}) == {}
    return pixels.numpy().astype(int)


def smooth_frames(path: Path) -> Frames:
    """All frames with colours interpolated and products rounded."""
    convert = VideoReformatter()
    how = Interpolation.BILINEAR.value | 0x40000 | 0x2000
    with av.open(str(path)) as container:
        return {
            index: convert.reformat(frame, format="rgb24", interpolation=how).to_ndarray()
            for index, frame in enumerate(container.decode(video=0))
        }


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, write_vp9: Callable[..., Path]) -> Path:
    """30 frames of coloured blocks that move, with frames that are decoded but never shown."""
    blocks = np.random.default_rng(1).integers(70, 186, (9, 12, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    frames = [np.roll(blocks, (i, 3 * i), axis=(0, 1)) for i in range(30)]
    hidden = {"auto-alt-ref": "1", "lag-in-frames": "12", "deadline": "good"}
    return write_vp9(tmp_path_factory.mktemp("parity") / "clip.webm", frames, **hidden)


INDICES = ((0, 5, 9, 9), (8, 16, 17, 29), (29, 3, 3, 0), (1, 2, 28, 29))


def test_views_of_a_video_are_pyavs(clip: Path) -> None:
    draws = draws_of(*INDICES)
    got = by_dali(clip, draws)
    assert_close(got, expected(smooth_frames(clip), draws))
    # The second view lies inside the frame.
    assert np.abs(got - expected(smooth_frames(clip), draws))[1].max() <= 1
    media = open_media(clip, "video")
    wanted = {index for draw in draws for index in draw.frame_indices}
    difference = np.abs(got - expected(media.frames(wanted), draws))
    assert difference.mean() <= 6
    # Another frame, or one that is not flipped, is far off.
    shifted = [draw_of(tuple(min(29, i + 1) for i in d.frame_indices), d.crop_box, flip=d.flip) for d in draws]
    assert np.abs(got - expected(smooth_frames(clip), shifted)).mean() > 10


def test_views_of_images_are_pillows(tmp_path: Path) -> None:
    paths = []
    for number, (suffix, options) in enumerate(
        ((".jpg", {"quality": 90}), (".jpg", {"subsampling": 0, "progressive": True}), (".png", {}), (".webp", {}))
    ):
        noise = np.random.default_rng(number).integers(70, 186, (80 + number, 100, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}{suffix}")
        Image.fromarray(noise).save(paths[-1], **options)
    # Frame 3 is held, frame 0 is used by two views.
    draws = draws_of((0, 1, 2, 3), (0, 3, 3, 3), (2, 3, 1, 2), (1, 1, 1, 1))
    got = by_dali(tmp_path, draws, tuple(paths))
    frames = {index: np.asarray(Image.open(path).convert("RGB")) for index, path in enumerate(paths)}
    assert_close(got, expected(frames, draws))


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1"])
def test_other_colours_become_rgb(tmp_path: Path, mode: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(70, 186, (60, 70, 3), dtype=np.uint8))
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    noise.convert(mode).save(path)
    draws = [draw_of((0,), (0.0, 0.0, 96.0, 72.0))]
    got = by_dali(tmp_path, draws, (path,))
    assert_close(got, expected({0: np.asarray(Image.open(path).convert("RGB"))}, draws))


def test_a_photo_that_says_it_is_turned_stays_as_stored(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(70, 186, (60, 70, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    noise.save(tmp_path / "photo.jpg", exif=turned)
    draws = [draw_of((0,), (0.0, 0.0, 96.0, 72.0))]
    got = by_dali(tmp_path, draws, (tmp_path / "photo.jpg",))
    assert_close(got, expected({0: np.asarray(Image.open(tmp_path / "photo.jpg"))}, draws))
