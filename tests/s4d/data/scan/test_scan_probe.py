"""What a look at one medium finds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from s4d.data.scan.probe import probe_medium
from s4d.data.scan.record import Probe

Scene = Callable[..., list[np.ndarray]]
Movie = Callable[..., Path]
Encode = Callable[..., bytes]


def test_a_whole_video(tmp_path: Path, make_scene: Scene, make_movie: Movie) -> None:
    path = make_movie(tmp_path / "a.mp4", make_scene(1, 20), codec="h264", container="mp4")
    found = probe_medium(tmp_path, "a.mp4", "video", quick=False)
    assert found.error is None
    assert (found.frames, found.header_frames, found.width, found.height) == (20, 20, 96, 96)
    assert (found.fps, found.duration, found.codec) == (25.0, 0.8, "h264")
    assert not found.variable_rate and not found.warnings and not found.cuts and not found.black_frames
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(found.hashes) == 3 and all(len(text) == 64 for text in found.hashes)
    assert found.luma is not None and 30 < found.luma < 220
    assert Probe.from_line(found.to_line()) == found


def test_quick_reads_no_pixels(tmp_path: Path, make_scene: Scene, make_movie: Movie) -> None:
    make_movie(tmp_path / "a.mp4", make_scene(1, 20), codec="h264", container="mp4")
    found = probe_medium(tmp_path, "a.mp4", "video", quick=True)
    assert (found.quick, found.frames, found.width, found.codec) == (True, 20, 96, "h264")
    assert (found.sha256, found.hashes, found.luma) == ("", (), None)


def test_scene_cuts_of_a_video(tmp_path: Path, make_scene: Scene, make_movie: Movie) -> None:
    frames = make_scene(1, 12) + make_scene(2, 9) + make_scene(3, 10)
    make_movie(tmp_path / "a.webm", frames, codec="libvpx-vp9", container="webm")
    assert probe_medium(tmp_path, "a.webm", "video", quick=False).cuts == (12, 21)


def test_a_variable_rate(tmp_path: Path, make_scene: Scene) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w", format="matroska") as file:
        stream = file.add_stream("h264", rate=25)
        stream.height = stream.width = 96
        stream.pix_fmt = "yuv420p"
        for index, picture in enumerate(make_scene(1, 12)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index * 40 + (index > 5) * 200, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    found = probe_medium(tmp_path, "a.mkv", "video", quick=False)
    assert found.error is None and found.variable_rate


def test_black_pictures_have_no_hash(tmp_path: Path, encode_still: Encode) -> None:
    (tmp_path / "a.png").write_bytes(encode_still(np.zeros((40, 40, 3), dtype=np.uint8), "PNG"))
    found = probe_medium(tmp_path, "a.png", "image", quick=False)
    assert (found.error, found.hashes, found.black_frames, found.luma) == (None, (), 1, 0.0)


def write_frames(folder: Path, names: list[str], frames: list[np.ndarray], encode: Encode) -> None:
    folder.mkdir()
    for name, frame in zip(names, frames, strict=True):
        (folder / name).write_bytes(encode(frame, "PNG" if name.endswith("png") else "JPEG"))


@pytest.mark.parametrize(
    ("names", "differs", "missing", "suffixes"),
    [
        (["1.jpg", "2.jpg", "10.jpg"], True, 7, (".jpg",)),
        (["001.jpg", "002.jpg", "010.jpg"], False, 7, (".jpg",)),
        (["clip3_1.jpg", "clip3_2.jpg", "clip3_3.jpg"], False, 0, (".jpg",)),
        (["01.jpg", "01.png", "02.jpg"], False, 0, (".jpg", ".png")),
        (["a.jpg", "b.jpg", "c.jpg"], False, 0, (".jpg",)),
    ],
)
def test_names_of_frames(
    tmp_path: Path,
    make_scene: Scene,
    encode_still: Encode,
    names: list[str],
    differs: bool,
    missing: int,
    suffixes: tuple[str, ...],
) -> None:
    write_frames(tmp_path / "c", names, make_scene(1, 3), encode_still)
    found = probe_medium(tmp_path, "c", "frames", quick=True)
    assert (found.order_differs, found.missing_numbers, found.suffixes) == (differs, missing, suffixes)


def test_the_digest_of_a_folder_ignores_names(tmp_path: Path, make_scene: Scene, encode_still: Encode) -> None:
    frames = make_scene(1, 3)
    write_frames(tmp_path / "a", ["1.png", "2.png", "3.png"], frames, encode_still)
    write_frames(tmp_path / "b", ["x01.png", "x02.png", "x03.png"], frames, encode_still)
    write_frames(tmp_path / "c", ["1.png", "2.png", "3.png"], frames[::-1], encode_still)
    a, b, c = (probe_medium(tmp_path, name, "frames", quick=False).sha256 for name in "abc")
    assert a == b != c


def test_frames_of_two_sizes(tmp_path: Path, make_scene: Scene, encode_still: Encode) -> None:
    write_frames(tmp_path / "a", ["1.png", "2.png"], [make_scene(1, 1)[0], make_scene(1, 1, side=64)[0]], encode_still)
    assert probe_medium(tmp_path, "a", "frames", quick=False).sizes == 2


@pytest.mark.parametrize(
    ("name", "kind", "content", "reason"),
    [
        ("gone.mp4", "video", None, "No such file"),
        ("gone", "frames", None, "No such file"),
        ("a.jpg", "image", b"", "empty"),
        ("a.jpg", "image", b"no picture at all", "cannot decode"),
        ("a.mp4", "video", b"#EXTM3U\nhttp://example.org/a.ts\n", "no video container"),
    ],
)
def test_what_cannot_be_read_has_an_error(
    tmp_path: Path, name: str, kind: str, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    found = probe_medium(tmp_path, name, kind, quick=False)
    assert found.error is not None and reason in found.error and name in found.error
    assert "\n" not in found.error


def test_what_leads_out_or_is_no_file_is_not_read(tmp_path: Path, encode_still: Encode, make_scene: Scene) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(encode_still(make_scene(1, 1)[0], "PNG"))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(root / "pipe.png")
    for name, reason in (("link.png", "leads out of"), ("pipe.png", "not a regular file")):
        found = probe_medium(root, name, "image", quick=False)
        assert found.error is not None and reason in found.error
        assert found.sha256 == ""


def test_complaints_about_an_image_are_counted(tmp_path: Path, encode_still: Encode, make_scene: Scene) -> None:
    cut_exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x1a\x01"
    for name, options in (("good.jpg", {}), ("odd.jpg", {"exif": cut_exif})):
        (tmp_path / name).write_bytes(encode_still(make_scene(1, 1)[0], "JPEG", **options))
    found = {name: probe_medium(tmp_path, name, "image", quick=False) for name in ("good.jpg", "odd.jpg")}
    assert found["good.jpg"].warnings == 0
    assert found["odd.jpg"].warnings > 0 and found["odd.jpg"].error is None
