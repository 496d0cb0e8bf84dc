"""Videos through torchcodec, an option of `data.backend`; images stay with Pillow.

PyAV opens a video first: what may be opened at all, how many frames it has and when each is shown is the same for both,
so plans and draws are too. torchcodec then decodes the wanted frames from the open file, which leaves it neither a name
nor an address to read more from.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from io import BytesIO

import av
import numpy as np
from numpy.typing import NDArray

from s4d.data.decode_video import UntimedVideo, VideoFile, let_go
from s4d.data.draws import SampleDraw
from s4d.data.media import Frames, Media, reading
from s4d.data.reading import open_sample, write_views
from s4d.data.sources import Source
from s4d.errors import DataError, UsageError

INSTALL = "pip install 's4d-engine[torchcodec]' and FFmpeg's shared libraries (Debian: ffmpeg) bring it"
PROBE = """
import sys
from torchcodec.decoders import VideoDecoder
decoder = VideoDecoder(sys.stdin.buffer.read(), device="cpu")
decoder.get_frames_at([0]), decoder.metadata.rotation
"""
PROBE_SECONDS = 120.0
# What the loader says of a library that is not there, and of whatever else is wrong.
MISSING = re.compile(r"^OSError: (\S+): cannot open shared object", re.MULTILINE)
BROKEN = re.compile(r"^OSError: (?!Could not load this library|.*cannot open shared object)(.+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TorchcodecVideo:
    """A video that PyAV has opened and whose frames torchcodec decodes."""

    video: VideoFile

    @property
    def frame_count(self) -> int:
        """Frames found in the file."""
        return self.video.frame_count

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.video.size

    def frames(self, indices: Iterable[int], scale: float = 1.0) -> Frames:
        """Decoded frames, all views of one array; see `Media.frames`.

        DataError also where torchcodec takes other frames for those wanted, as it does in some MPEG files.
        """
        path, wanted = self.video.path, sorted(set(indices))
        let_go(path)
        with reading(path):
            pixels, seconds = self._decode(wanted)
        times = [round(second / self.video.time_base) for second in seconds]
        if times != [self.video.times[index] for index in wanted] or pixels.shape[2:0:-1] != self.size:
            raise DataError(f"{path}: torchcodec gives other frames than those wanted; use data.backend: pyav")
        return dict(zip(wanted, pixels, strict=True))

    def _decode(self, wanted: list[int]) -> tuple[NDArray[np.uint8], list[float]]:
        """Pixels (frames, height, width, 3) as they are stored, and the times they are shown at in seconds."""
        from torchcodec.decoders import VideoDecoder

        with open(self.video.path, "rb", buffering=0) as file:
            try:
                decoder = VideoDecoder(
                    file,
                    stream_index=self.video.stream,
                    dimension_order="NHWC",
                    num_ffmpeg_threads=1,
                    device="cpu",
                    seek_mode="exact",
                )
                found = decoder.get_frames_at(wanted)
            except RuntimeError as error:
                if "allocate memory" in str(error):
                    raise MemoryError(str(error)) from error
                raise
        return _as_stored(found.data.numpy(), decoder.metadata.rotation), found.pts_seconds.tolist()


def _as_stored(pixels: NDArray[np.uint8], rotation: float | None) -> NDArray[np.uint8]:
    """Frames without the quarter turns that a file asks players for, which torchcodec makes and PyAV does not."""
    turns = round((rotation or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, -turns, axes=(1, 2))) if turns else pixels


def read_views(
    source: Source, row: int, order: str, out: NDArray[np.uint8], *, draw: Callable[[Media], Sequence[SampleDraw]]
) -> Sequence[SampleDraw]:
    """As `s4d.data.reading.read_views`; UsageError for videos whose frames have no times."""
    media = open_sample(source, row, order)
    if isinstance(media, UntimedVideo):
        raise UsageError(f"data.backend: torchcodec: cannot decode a video without times ({media.path}); use pyav")
    return write_views(TorchcodecVideo(media) if isinstance(media, VideoFile) else media, source, out, draw)


@lru_cache(maxsize=1)
def refusal() -> str | None:
    """Why torchcodec cannot be used here, None where it can; tried out in a process of its own, which may crash."""
    if find_spec("torchcodec") is None:
        return f"is not installed; {INSTALL}"
    # Found where this process would find it, which may have been started with another environment.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-P", "-c", PROBE]
    try:
        probe = subprocess.run(command, input=_one_frame(), capture_output=True, timeout=PROBE_SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        return f"cannot be used here: decoding one frame took more than {PROBE_SECONDS:g} s"
    if probe.returncode == 0:
        return None
    return f"cannot be used here: {_reason(probe.stderr.decode(errors='replace'), probe.returncode)}; {INSTALL}"


def _reason(told: str, status: int) -> str:
    """The line that matters of what a failed probe has said: it tries its libraries for one FFmpeg after another."""
    if broken := BROKEN.search(told):
        return broken[1]
    if missing := list(dict.fromkeys(MISSING.findall(told))):
        return f"missing {' or '.join(missing)}"
    lines = told.strip().splitlines()
    return lines[-1] if lines and status > 0 else f"decoding one frame ended the process (status {status})"


def _one_frame() -> bytes:
    """A video of one grey frame."""
    file = BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj420p"
        grey = np.full((32, 32, 3), 128, dtype=np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()
