"""torchcodec as a backend: frames equal to PyAV's, other frames never, and one line where it cannot be used.

Everything runs with a stand-in too, which decodes through PyAV behind the interface that torchcodec documents.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from s4d.config import Config
from s4d.data import decode_torchcodec
from s4d.data.decode_torchcodec import TorchcodecVideo, _reason, read_views, refusal
from s4d.data.decode_video import UntimedVideo, VideoFile, open_video
from s4d.data.loader import build_batches
from s4d.data.plan import build_plan
from s4d.data.trial import try_backend
from s4d.errors import DataError, UsageError

CPU = torch.device("cpu")
STAND_IN = """
from types import SimpleNamespace
import av, io, numpy as np, torch

class VideoDecoder:
    def __init__(self, source, *, stream_index=None, dimension_order="NCHW", num_ffmpeg_threads=1, device=None,
                 seek_mode="exact"):
        source = io.BytesIO(source) if isinstance(source, bytes) else source
        with av.open(source) as container:
            stream = container.streams[stream_index or 0]
            shown = sorted(container.decode(stream), key=lambda frame: frame.pts)
        self.turns = round((shown[0].rotation or 0) / 90)
        self.metadata = SimpleNamespace(rotation=90.0 * self.turns)
        self.times = [float(frame.pts * frame.time_base) for frame in shown]
        self.frames = [frame.to_ndarray(format="rgb24") for frame in shown]

    def get_frames_at(self, indices):
        data = np.stack([np.rot90(self.frames[index], self.turns) for index in indices])
        times = [self.times[index] for index in indices]
        return SimpleNamespace(data=torch.from_numpy(data), pts_seconds=torch.tensor(times, dtype=torch.float64))
"""


def forget_torchcodec() -> dict[str, Any]:
    refusal.cache_clear()
    names = [name for name in sys.modules if name.split(".")[0] == "torchcodec"]
    return {name: sys.modules.pop(name) for name in names}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes a torchcodec whose `decoders` holds the text given, in this process and in new ones."""
    kept = forget_torchcodec()
    folder = tmp_path / "packages/torchcodec"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))
    yield lambda text: (folder / "decoders.py").write_text(text) and None
    forget_torchcodec()
    sys.modules.update(kept)


@pytest.fixture(params=["stand-in", "installed"])
def decoder(request: pytest.FixtureRequest) -> None:
    """The real torchcodec where it can be used, and the stand-in."""
    if request.param == "stand-in":
        request.getfixturevalue("package")(STAND_IN)
    elif reason := refusal():
        pytest.skip(f"torchcodec {reason}")


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    return np.stack([2 * x + 5 * number, 2 * y + 3 * number, x + y + 7 * number], -1).astype(np.uint8)


def encode(
    path: Path, codec: str, *, size: tuple[int, int] = (64, 48), pixels: str = "yuv420p", **options: str
) -> Path:
    """40 frames whose times are uneven where the name says so."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24")
            frame.pts, frame.time_base = 40 * number + ("uneven" in path.name) * (number % 3) * 9, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


VIDEOS: list[tuple[str, str, dict[str, Any]]] = [
    ("b-frames.mp4", "libx264", {"bf": "3", "g": "12"}),
    ("uneven.mkv", "libx264", {"bf": "0"}),
    ("odd.mp4", "libx264", {"size": (70, 54)}),
    ("whole-chroma.mp4", "libx264", {"pixels": "yuv444p"}),
    ("vp9.webm", "libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}),
    ("hevc.mkv", "libx265", {"x265-params": "log-level=none"}),
]


def opened(path: Path) -> VideoFile:
    video = open_video(path)
    assert isinstance(video, VideoFile)
    return video


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize(("name", "codec", "options"), VIDEOS, ids=[name for name, _, _ in VIDEOS])
def test_frames_are_those_of_pyav_to_the_bit(tmp_path: Path, name: str, codec: str, options: dict[str, Any]) -> None:
    video = opened(encode(tmp_path / name, codec, **options))
    wanted = [39, 0, 7, 8, 7, 20]
    expected, found = video.frames(wanted), TorchcodecVideo(video).frames(wanted)
    assert found.keys() == expected.keys() == set(wanted)
    for index in expected:
        np.testing.assert_array_equal(found[index], expected[index])


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)], ids=["90", "180", "270"])
def test_turned_frames_are_turned_back(tmp_path: Path, matrix: tuple[int, ...]) -> None:
    path = encode(tmp_path / "turned.mp4", "libx264")
    data = bytearray(path.read_bytes())
    # The matrix of the track's header: a, b, u, c, d, v, of which a to d turn the picture.
    place = data.index(b"tkhd") + 4 + 40
    for number, offset in zip(matrix, (0, 4, 12, 16), strict=True):
        data[place + offset : place + offset + 4] = (number << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    video = opened(path)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation
    np.testing.assert_array_equal(TorchcodecVideo(video).frames([5])[5], video.frames([5])[5])


@pytest.mark.usefixtures("decoder")
def test_batches_are_those_of_pyav(pretrain_config: Callable[..., Config]) -> None:
    steps = {}
    for backend in ("torchcodec", "pyav"):
        batches = build_batches(pretrain_config(data={"backend": backend}), 0, 1)
        steps[backend] = list(batches.steps(0))
        batches.close()
    for ours, theirs in zip(*steps.values(), strict=True):
        for batch, other in zip(ours, theirs, strict=True):
            for group, same in zip(batch.groups, other.groups, strict=True):
                assert group.sample_ids == same.sample_ids
                assert torch.equal(group.pixels, same.pixels)


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("indices = [index - 1 for index in indices]", "torchcodec gives other frames than those wanted; use data.bac"),
        ("raise RuntimeError('no frames left\\nat 0x1')", "cannot decode: no frames left$"),
        ("raise RuntimeError('cannot allocate memory')", "cannot decode: not enough memory$"),
    ],
)
def test_what_is_not_the_wanted_frames_is_an_error(
    tmp_path: Path, package: Callable[[str], None], fault: str, line: str
) -> None:
    package(STAND_IN.replace("data = np.stack", f"{fault}\n        data = np.stack"))
    path = encode(tmp_path / "a.mp4", "libx264")
    with pytest.raises(DataError, match=rf"^{path}: {line}"):
        TorchcodecVideo(opened(path)).frames([3, 4])


def test_a_video_without_times_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media = UntimedVideo(tmp_path / "a.h264", (8, 8), 3)
    monkeypatch.setattr(decode_torchcodec, "open_sample", lambda *_: media)
    source: Any = None
    with pytest.raises(
        UsageError, match=r"^data\.backend: torchcodec: cannot decode a video without times \(.*a\.h264"
    ):
        read_views(source, 0, "natural", np.empty((1, 1, 8, 8, 3), np.uint8), draw=lambda _: [])


@pytest.mark.parametrize(
    ("decoders", "line"),
    [
        ("raise OSError('libavutil.so.60: cannot open shared object file: No such file')", "missing libavutil.so.60;"),
        ("import os; os.abort()", r"decoding one frame ended the process \(status -6\);"),
        ("VideoDecoder = None", "TypeError: 'NoneType' object is not callable;"),
    ],
    ids=["library", "crash", "error"],
)
def test_a_torchcodec_that_does_not_work_is_refused_in_a_line(
    pretrain_config: Callable[..., Config], package: Callable[[str], None], decoders: str, line: str
) -> None:
    package(decoders)
    with pytest.raises(UsageError, match=rf"^data\.backend: torchcodec: cannot be used here: {line} pip install .*$"):
        build_batches(pretrain_config(data={"backend": "torchcodec"}), 0, 1)
    config = pretrain_config()
    assert try_backend("torchcodec", config, build_plan(config, world_size=1), 0, CPU).refusal == refusal()


def test_a_torchcodec_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal.cache_clear()
    monkeypatch.setattr(decode_torchcodec, "find_spec", lambda _: None)
    assert refusal() == f"is not installed; {decode_torchcodec.INSTALL}"
    refusal.cache_clear()


def test_the_reason_is_what_is_wrong_with_the_ffmpeg_that_is_there() -> None:
    absent = "OSError: libavutil.so.{}: cannot open shared object file: No such file or directory\n"
    wrapped = "OSError: Could not load this library: core.so\n"
    assert (
        _reason(absent.format(60) + wrapped + absent.format(59) * 2, 1) == "missing libavutil.so.60 or libavutil.so.59"
    )
    assert _reason(absent.format(60) + "OSError: core5.so: undefined symbol: x\n", 1) == "core5.so: undefined symbol: x"
