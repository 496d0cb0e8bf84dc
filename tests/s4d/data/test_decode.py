"""Decoding: exact frames by index, natural order, and one clear line for every kind of bad file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from s4d.data.decode_video import UntimedVideo
from s4d.data.media import list_frames, natural_key, open_media
from s4d.errors import DataError


def levels(path: Path, wanted: list[int]) -> list[int]:
    """Frame numbers that the grey levels of decoded frames tell."""
    frames = open_media(path, "video").frames(wanted)
    return [round(float(np.asarray(frames[index]).mean()) / 5) for index in wanted]


@pytest.fixture
def numbered_video(
    tmp_path: Path, write_clip: Callable[..., Path], numbered_frame: Callable[[int], np.ndarray]
) -> Path:
    return write_clip(tmp_path / "numbered.mp4", [numbered_frame(i) for i in range(40)])


@pytest.mark.parametrize("wanted", [[0], [39], [5, 6, 7], [25, 38], [0, 39], [13, 11, 12, 11], list(range(40))])
def test_video_frames_are_exact_from_any_keyframe(numbered_video: Path, wanted: list[int]) -> None:
    media = open_media(numbered_video, "video")
    assert (media.frame_count, media.size) == (40, (48, 48))
    assert levels(numbered_video, wanted) == wanted


def test_variable_frame_rates_are_counted_by_frame(tmp_path: Path, numbered_frame: Callable[[int], np.ndarray]) -> None:
    path = tmp_path / "vfr.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=25, options={"g": "6", "crf": "10"})
        stream.width = stream.height = 48
        stream.pix_fmt = "yuv420p"
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(numbered_frame(index), format="rgb24")
            frame.pts = index * (index + 1) // 2
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert open_media(path, "video").frame_count == 20
    assert levels(path, [0, 3, 11, 19]) == [0, 3, 11, 19]


def test_videos_without_times_are_counted_by_decoding(
    tmp_path: Path, numbered_frame: Callable[[int], np.ndarray]
) -> None:
    path = tmp_path / "raw.h264"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("h264", rate=25, options={"g": "6", "crf": "10"})
        stream.width = stream.height = 48
        stream.pix_fmt = "yuv420p"
        for index in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(index), format="rgb24")))
        container.mux(stream.encode())
    assert isinstance(open_media(path, "video"), UntimedVideo)
    assert open_media(path, "video").frame_count == 20
    assert levels(path, [0, 7, 19]) == [0, 7, 19]


def test_only_a_video_stream_counts(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DataError, match=r"sound\.mp4: holds no video stream"):
        open_media(path, "video")


@pytest.mark.parametrize(
    ("share", "flags"),
    [
        *((share, {}) for share in (0.01, 0.1, 0.5, 0.9)),
        *((share, {"movflags": "faststart"}) for share in (0.1, 0.5, 0.9, 0.99)),
    ],
)
def test_truncated_video_is_an_error_that_names_the_file(
    tmp_path: Path, numbered_video: Path, share: float, flags: dict[str, str]
) -> None:
    whole = tmp_path / "whole.mp4"
    with av.open(str(numbered_video)) as source, av.open(str(whole), "w", options=flags) as target:
        copied = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copied
                target.mux(packet)
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"cut\.mp4: ") as caught:
        open_media(cut, "video").frames(range(40))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "image"), ("a.png", "image"), ("a.mp4", "video")])
@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "the file is empty"), (b"not what its name says" * 9, ""), (None, "[Nn]o such file")]
)
def test_bad_files_are_named(tmp_path: Path, name: str, kind: str, content: bytes | None, reason: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: cannot decode: .*{reason}") as caught:
        open_media(path, kind).frames([0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_truncated_image_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match=rf"cut\.{suffix}: cannot decode"):
        open_media(path, "image").frames([0])


def test_frames_are_in_natural_order_by_default(tmp_path: Path) -> None:
    for number in (1, 2, 10, 11, 9):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    assert [path.stem for path in list_frames(tmp_path)] == ["1", "2", "9", "10", "11"]
    assert [path.stem for path in list_frames(tmp_path, "lexicographic")] == ["1", "10", "11", "2", "9"]
    frames = open_media(tmp_path, "frames").frames([2, 4])
    assert [np.asarray(frames[index])[0, 0, 0] for index in (2, 4)] == [9, 11]


def test_natural_order_mixes_words_and_numbers() -> None:
    names = ["frame10", "frame9", "frame", "10", "9", "a1b20", "a1b3"]
    assert sorted(names, key=natural_key) == ["9", "10", "a1b3", "a1b20", "frame", "frame9", "frame10"]


def test_a_folder_without_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no frames"):
        open_media(tmp_path, "frames")
    with pytest.raises(DataError, match="cannot list frames"):
        open_media(tmp_path / "missing", "frames")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_picture_comes_out_as_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (10, 6), (200, 30, 30)).convert(mode).save(path)
    frame = open_media(path, "image").frames([0])[0]
    assert (frame.dtype, frame.shape) == (np.uint8, (6, 10, 3))


def test_large_jpeg_decodes_no_smaller_than_asked(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.new("RGB", (800, 640), (9, 99, 199)).save(path)
    media = open_media(path, "image")
    assert media.frames([0])[0].shape == (640, 800, 3)
    assert media.frames([0], 0.3)[0].shape == (320, 400, 3)
    assert media.frames([0], 0.25)[0].shape in ((160, 200, 3), (320, 400, 3))
