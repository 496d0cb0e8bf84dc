"""What is refused before anything is decoded: other kinds of files, foreign containers, sizes, ways out of the root."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from s4d.data import decode_video, media_limits
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import read_manifest
from s4d.data.media import open_media
from s4d.data.media_check import find_damaged
from s4d.data.media_limits import bytes_missing, media_path, refuse_outside, video_input
from s4d.errors import DataError


def huge_png(side: int) -> bytes:
    """A PNG whose header claims `side` x `side` pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\0\0\0\x09IDAT"
        + bytes(13)
    )


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str, make: Callable[[Path], None]) -> None:
    path = tmp_path / "a.jpg"
    make(path)
    with pytest.raises(DataError, match=r"a\.jpg: cannot decode: not a regular file"):
        open_media(path, kind).frames([0])


def test_a_loop_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to("b.mp4")
    (tmp_path / "b.mp4").symlink_to("a.mp4")
    with pytest.raises(DataError, match=r"a\.mp4: cannot decode: Too many levels"):
        open_media(tmp_path / "a.mp4", "video")


def test_a_list_of_files_named_like_a_video_opens_none_of_them(
    tmp_path: Path, write_clip: Callable[..., Path], numbered_frame: Callable[[int], np.ndarray]
) -> None:
    write_clip(tmp_path / "real.mp4", [numbered_frame(i) for i in range(3)])
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile real.mp4\n")
    with pytest.raises(DataError, match=r"list\.mp4: cannot decode: no video container"):
        open_media(tmp_path / "list.mp4", "video")


def test_a_file_may_be_called_like_a_protocol(
    tmp_path: Path,
    write_clip: Callable[..., Path],
    numbered_frame: Callable[[int], np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_clip(tmp_path / "real.mp4", [numbered_frame(i) for i in range(3)]).rename(tmp_path / "concat:a.mp4")
    monkeypatch.chdir(tmp_path)
    assert open_media(Path("concat:a.mp4"), "video").frame_count == 3


@pytest.mark.parametrize("side", [8193, 30_000, 60_000])
def test_an_image_is_measured_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(huge_png(side))
    with pytest.raises(DataError, match=r"a\.png: cannot decode: .*pixels"):
        open_media(tmp_path / "a.png", "image")


def test_other_image_formats_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif")
    (tmp_path / "a.gif").rename(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: cannot decode: cannot identify image file"):
        open_media(tmp_path / "a.jpg", "image")


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("MAX_FRAMES", 2, "3 frames or more, at most 2"),
        ("MAX_FRAME_PIXELS", 100, "48 x 48 pixels, at most 100"),
        ("MAX_SECONDS", 0, "seconds long, at most 0"),
        ("VIDEO_CODECS", frozenset({"vp9"}), "codec 'h264' is not among those allowed"),
    ],
)
def test_a_video_beyond_a_limit_is_refused(
    tmp_path: Path,
    write_clip: Callable[..., Path],
    numbered_frame: Callable[[int], np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    value: object,
    message: str,
) -> None:
    path = write_clip(tmp_path / "a.mp4", [numbered_frame(i) for i in range(3)])
    monkeypatch.setattr(media_limits, limit, value)
    with pytest.raises(DataError, match=r"a\.mp4: cannot decode: ") as caught:
        open_media(path, "video")
    assert message in str(caught.value)


@pytest.mark.parametrize("suffix", ["mkv", "avi"])
def test_a_file_shorter_than_it_says_is_truncated(
    tmp_path: Path, write_clip: Callable[..., Path], numbered_frame: Callable[[int], np.ndarray], suffix: str
) -> None:
    path = write_clip(tmp_path / f"a.{suffix}", [numbered_frame(i) for i in range(9)])
    data = path.read_bytes()
    assert bytes_missing(data[:192], len(data)) == 0
    path.write_bytes(data[:-7])
    with pytest.raises(DataError, match=rf"a\.{suffix}: truncated: {len(data) - 7} bytes of at least {len(data)}"):
        video_input(path)


@pytest.mark.parametrize("inside", ["/etc/passwd", "../a.jpg", "b/../../a.jpg", "..", "b\\..\\..\\a.jpg", "a\0.jpg"])
def test_manifest_paths_stay_below_the_root(tmp_path: Path, inside: str) -> None:
    with pytest.raises(DataError, match=r"^m\.csv: row 3: field 'path': "):
        refuse_outside(inside, "m.csv: row 3")
    refuse_outside("b/..c/a..jpg", "m.csv: row 3")


def test_a_manifest_row_that_climbs_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,label,split,kind\na.jpg,x,train,image\n../b.jpg,x,train,image\n")
    with pytest.raises(DataError, match=r"m\.csv: row 3: field 'path': '\.\./b\.jpg'"):
        read_manifest(tmp_path / "m.csv")


def test_links_may_not_lead_out_of_the_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root, outside):
        folder.mkdir()
        (folder / "a.jpg").write_bytes(b"x")
    (root / "inner.jpg").symlink_to("a.jpg")
    (root / "outer.jpg").symlink_to("../outside/a.jpg")
    (root / "folder").symlink_to("../outside")
    assert media_path(root, "inner.jpg", "m.csv") == root / "inner.jpg"
    for inside in ("outer.jpg", "folder/a.jpg", "folder"):
        with pytest.raises(DataError, match=rf"^m\.csv: field 'path': '{inside}' leads out of "):
            media_path(root, inside, "m.csv")
    linked = tmp_path / "linked"
    linked.symlink_to(root)
    assert media_path(linked, "a.jpg", "m.csv") == linked / "a.jpg"


def test_a_first_look_finds_other_kinds_of_files_links_out_and_cut_containers(
    tmp_path: Path, write_clip: Callable[..., Path], numbered_frame: Callable[[int], np.ndarray]
) -> None:
    root = tmp_path / "root"
    for name in ("whole.mkv", "cut.mkv", "cut.avi"):
        path = write_clip(root / name, [numbered_frame(i) for i in range(3)])
        if name.startswith("cut"):
            path.write_bytes(path.read_bytes()[:-5])
    os.mkfifo(root / "fifo.mp4")
    (root / "out.mkv").symlink_to("/dev/zero")
    rows = [
        ManifestRow(sample_id=path.name, path=path.name, kind="video", dataset="made", split="train")
        for path in sorted(root.iterdir())
    ]
    damaged = find_damaged(rows, root)
    assert list(damaged) == ["cut.avi", "cut.mkv", "fifo.mp4", "out.mkv"]
    assert all(str(root / path) in line for path, line in damaged.items())
    assert "truncated" in damaged["cut.avi"] and "truncated" in damaged["cut.mkv"]
    assert "not a regular file" in damaged["fifo.mp4"] and "leads out of" in damaged["out.mkv"]


def test_frames_without_times_are_counted_up_to_a_limit(
    tmp_path: Path, numbered_frame: Callable[[int], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "raw.h264"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("h264", rate=25)
        stream.width = stream.height = 48
        stream.pix_fmt = "yuv420p"
        for index in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(index), format="rgb24")))
        container.mux(stream.encode())
    assert open_media(path, "video").frame_count == 4
    monkeypatch.setattr(media_limits, "MAX_FRAMES", 3)
    decode_video.forget_videos()
    with pytest.raises(DataError, match="4 frames or more, at most 3"):
        open_media(path, "video")


def test_a_first_look_finds_the_last_cut_of_a_fragmented_video(
    tmp_path: Path, numbered_frame: Callable[[int], np.ndarray]
) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("h264", rate=25, options={"g": "2"})
        stream.width = stream.height = 48
        stream.pix_fmt = "yuv420p"
        for index in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(index), format="rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    row = ManifestRow(sample_id="a", path="a.mp4", kind="video", dataset="made", split="train")
    assert not find_damaged([row], tmp_path)
    fragment, content = data.rindex(b"moof") - 4, data.rindex(b"mdat") - 4
    for end in (fragment + 5, fragment + 20, content, content + 3, content + 6, content + 20):
        path.write_bytes(data[:end])
        assert "truncated" in find_damaged([row], tmp_path)["a.mp4"], end
