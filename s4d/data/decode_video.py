"""Video files through PyAV."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from s4d.data.media import Frames, Media, reading
from s4d.data.media_limits import MAX_FRAME_PIXELS, check_frames, check_video, video_input
from s4d.errors import DataError

# A stream may change its size on the way.
DECODER_OPTIONS = {"max_pixels": str(MAX_FRAME_PIXELS)}


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A video file whose packets have been listed: `times` are the sorted presentation times of its frames."""

    path: Path
    size: tuple[int, int]
    times: tuple[int, ...]
    keyframes: tuple[int, ...]

    @property
    def frame_count(self) -> int:
        """Frames found in the file, not what its header claims."""
        return len(self.times)

    def frames(self, indices: Iterable[int], scale: float = 1.0) -> Frames:
        """Decoded frames; see `Media.frames`. Decoding starts at the last keyframe before the first wanted frame."""
        wanted = {self.times[index]: index for index in indices}
        first, last = min(wanted), max(wanted)
        found: Frames = {}
        convert = VideoReformatter()
        with reading(self.path), _opened(self.path) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            stream.codec_context.options = DECODER_OPTIONS
            start = max((time for time in self.keyframes if time <= first), default=None)
            if start is not None and start > self.times[0]:
                container.seek(start, stream=stream)
            for frame in container.decode(stream):
                if frame.pts in wanted:
                    found[wanted[frame.pts]] = _rgb(convert, frame)
                if frame.pts is not None and frame.pts >= last:
                    break
        missing = len(wanted) - len(found)
        if missing:
            raise DataError(f"{self.path}: cannot decode: {missing} of {len(wanted)} wanted frames are damaged")
        return found


@dataclass(frozen=True, slots=True)
class UntimedVideo:
    """A video whose packets carry no times; frames are counted by decoding from the start."""

    path: Path
    size: tuple[int, int]
    frame_count: int

    def frames(self, indices: Iterable[int], scale: float = 1.0) -> Frames:
        """Decoded frames; see `Media.frames`."""
        wanted = set(indices)
        found: Frames = {}
        convert = VideoReformatter()
        with reading(self.path), _opened(self.path) as container:
            container.streams.video[0].codec_context.options = DECODER_OPTIONS
            for index, frame in enumerate(container.decode(video=0)):
                if index in wanted:
                    found[index] = _rgb(convert, frame)
                if len(found) == len(wanted):
                    return found
        raise DataError(f"{self.path}: cannot decode: ends before frame {max(wanted)}")


def _rgb(convert: VideoReformatter, frame: av.VideoFrame) -> NDArray[np.uint8]:
    """RGB pixels of a decoded frame; one converter per file keeps its tables, which cost more than a frame."""
    rgb: NDArray[np.uint8] = convert.reformat(frame, format="rgb24", threads=1).to_ndarray()  # type: ignore[assignment]
    return rgb


def _opened(path: Path) -> InputContainer:
    """A container of an allowed kind, whose first video stream is within the limits as far as headers tell."""
    file, container_format, options = video_input(path)
    container = av.open(file, format=container_format, options=options)
    try:
        if not container.streams.video:
            raise DataError(f"{path}: holds no video stream")
        stream = container.streams.video[0]
        context = stream.codec_context
        check_video(
            path,
            codec=context.name,
            size=(context.width, context.height),
            frames=stream.frames,
            seconds=(container.duration or 0) / av.time_base,
        )
    except BaseException:
        container.close()
        raise
    return container


def _packets(path: Path, container: InputContainer) -> list[av.Packet]:
    """The packets of the first video stream that hold something."""
    packets = []
    for packet in container.demux(container.streams.video[0]):
        if packet.size:
            packets.append(packet)
            check_frames(path, len(packets))
    return packets


@lru_cache(maxsize=1024)
def open_video(path: Path) -> Media:
    """List the packets of a video file; DataError where it holds no video or ends before its header says."""
    with reading(path), _opened(path) as container:
        stream = container.streams.video[0]
        size = (stream.codec_context.width, stream.codec_context.height)
        packets = _packets(path, container)
        if not packets:
            raise DataError(f"{path}: cannot decode: holds no frames")
        if len(packets) < stream.frames:
            raise DataError(f"{path}: truncated: {len(packets)} frames of the {stream.frames} in its header")
        shown = [packet for packet in packets if not packet.is_discard]
        times = [packet.pts for packet in shown if packet.pts is not None]
        if len(times) == len(shown):
            keyframes = tuple(packet.pts for packet in shown if packet.is_keyframe and packet.pts is not None)
            return VideoFile(path, size, tuple(sorted(times)), keyframes)
    with reading(path), _opened(path) as container:
        container.streams.video[0].codec_context.options = DECODER_OPTIONS
        return UntimedVideo(path, size, sum(1 for _ in container.decode(video=0)))


@lru_cache(maxsize=1024)
def video_codec(path: Path) -> str:
    """Name of a video's codec, whatever its decoder is called; DataError as `open_video`."""
    with reading(path), _opened(path) as container:
        return container.streams.video[0].codec_context.codec.canonical_name
