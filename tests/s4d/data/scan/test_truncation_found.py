"""Share of cut files that a scan finds: at least 99 of 100 without content hashes, all with them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from s4d.data.manifest import Kind
from s4d.data.scan.probe import probe_medium
from s4d.data.scan.record import Probe

VIDEOS = {
    "index behind.mp4": ("h264", "mp4", {}),
    "index in front.mp4": ("h264", "mp4", {"movflags": "faststart"}),
    "mpeg4 in front.mp4": ("mpeg4", "mp4", {"movflags": "faststart"}),
    "fragments.mp4": ("h264", "mp4", {"movflags": "frag_keyframe+empty_moov"}),
    "vp9.webm": ("libvpx-vp9", "webm", {}),
    "vp8.webm": ("libvpx", "webm", {}),
    "streamed.webm": ("libvpx-vp9", "webm", {"live": "1"}),
    "h264.mkv": ("h264", "matroska", {}),
    "streamed.mkv": ("h264", "matroska", {"live": "1"}),
    "mpeg4.avi": ("mpeg4", "avi", {}),
    "mjpeg.avi": ("mjpeg", "avi", {}),
    "h264.avi": ("h264", "avi", {}),
}
IMAGES = {
    "baseline.jpg": ("JPEG", {"quality": 90}),
    "progressive.jpg": ("JPEG", {"quality": 90, "progressive": True}),
    "restarts.jpg": ("JPEG", {"quality": 60, "restart_marker_rows": 1}),
    "a.png": ("PNG", {}),
    "a.webp": ("WEBP", {}),
}
LAST_BYTES = (1, 2, 3, 4, 8, 16, 64)
FLOOR = 0.99

Files = dict[Path, Kind]


@pytest.fixture(scope="module")
def media(
    tmp_path_factory: pytest.TempPathFactory,
    make_scene: Callable[..., list[np.ndarray]],
    make_movie: Callable[..., Path],
    encode_still: Callable[..., bytes],
) -> Files:
    root = tmp_path_factory.mktemp("whole")
    files: Files = {}
    for name, (codec, container, options) in VIDEOS.items():
        files[make_movie(root / name, make_scene(3, 24), codec=codec, container=container, options=options)] = "video"
    for name, (image_format, parameters) in IMAGES.items():
        (root / name).write_bytes(encode_still(make_scene(4, 1)[0], image_format, **parameters))
        files[root / name] = "image"
    return files


def is_found(probe: Probe) -> bool:
    return probe.error is not None or probe.warnings > 0 or probe.frames != (probe.header_frames or probe.frames)


def missed(media: Files, folder: Path, per_file: int) -> tuple[list[str], int]:
    """Cuts that a scan does not find, and how many were made; the content hash must tell every one."""
    lost: list[str] = []
    count = 0
    for path, kind in media.items():
        content = path.read_bytes()
        whole = probe_medium(path.parent, path.name, kind, quick=False)
        assert not is_found(whole), f"{path.name} is whole: {whole.error}, {whole.warnings} complaints"
        draw = random.Random(path.name)
        lengths = [len(content) - lacking for lacking in LAST_BYTES]
        lengths += [draw.randrange(1, len(content)) for _ in range(per_file)]
        for length in lengths:
            (folder / path.name).write_bytes(content[:length])
            cut = probe_medium(folder, path.name, kind, quick=False)
            assert cut.sha256 and cut.sha256 != whole.sha256
            count += 1
            if not is_found(cut):
                lost.append(f"{path.name} without its last {len(content) - length} of {len(content)} bytes")
    return lost, count


def test_cut_files_are_found(media: Files, tmp_path: Path) -> None:
    lost, count = missed(media, tmp_path, per_file=8)
    assert len(lost) <= (1 - FLOOR) * count, lost


@pytest.mark.deep
def test_many_cut_files_are_found(media: Files, tmp_path: Path) -> None:
    lost, count = missed(media, tmp_path, per_file=300)
    print(f"{count - len(lost)} of {count} cut files found without hashes")
    assert len(lost) <= (1 - FLOOR) * count, lost
