"""Video files through PyAV.

Opening a file lists its packets; the first visit decodes from that list, without opening or reading the file again.
Frames that nothing is predicted from are decoded only if they are wanted.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

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
# Decoders that leave out frames that nothing is predicted from without a change to any other frame.
CAN_SKIP = frozenset({"h264", "hevc", "mpeg4"})
# Most bytes of packets that are kept from opening a file until it is decoded.
HELD_BYTES = 64 << 20


class _Listed(threading.local):
    """The file that a thread opened last and its packets, until it decodes them."""

    held: tuple[Path, InputContainer, tuple[av.Packet, ...]] | None = None

    def hold(self, path: Path, container: InputContainer, packets: list[av.Packet]) -> None:
        """Keep an open file, unless its packets were too large to be kept; the one before is closed."""
        if self.held is not None:
            self.held[1].close()
        self.held = (path, container, tuple(packets)) if packets else None
        if not packets:
            container.close()

    def take(self, path: Path) -> tuple[InputContainer, tuple[av.Packet, ...]] | None:
        """Hand over the file at `path`, if it is this one."""
        if self.held is None or self.held[0] != path:
            return None
        (_, container, packets), self.held = self.held, None
        return container, packets


_listed = _Listed()


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A video file whose packets have been listed: `times` are the sorted presentation times of its frames.

    Times count ticks of `time_base` seconds; `stream` is the video's number among the streams of the file.
    """

    path: Path
    size: tuple[int, int]
    times: tuple[int, ...]
    keyframes: tuple[int, ...]
    stream: int
    time_base: Fraction

    @property
    def frame_count(self) -> int:
        """Frames found in the file, not what its header claims."""
        return len(self.times)

    def frames(self, indices: Iterable[int], scale: float = 1.0) -> Frames:
        """Decoded frames; see `Media.frames`. Decoding starts at the last keyframe before the first wanted frame."""
        wanted: dict[int, list[int]] = {}
        for index in set(indices):
            wanted.setdefault(self.times[index], []).append(index)
        with reading(self.path):
            found = self._decode(wanted.keys(), _listed.take(self.path), careful=False)
            if len(found) < len(wanted):
                found = self._decode(wanted.keys(), None, careful=True)
        missing = len(wanted) - len(found)
        if missing:
            raise DataError(f"{self.path}: cannot decode: {missing} of {len(wanted)} wanted frames are damaged")
        return {index: found[time] for time, places in wanted.items() for index in places}

    def in_order(self, indices: Iterable[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The frames at `indices` one by one as the file is decoded once, for more frames than memory could hold.

        DataError, after those that could be decoded, where some are damaged.
        """
        wanted: dict[int, list[int]] = {}
        for index in set(indices):
            wanted.setdefault(self.times[index], []).append(index)
        count = len(wanted)
        convert = VideoReformatter()
        let_go(self.path)
        with reading(self.path), _opened(self.path) as container:
            video = container.streams.video[0]
            video.thread_type = "AUTO"
            video.codec_context.options = DECODER_OPTIONS
            start = max((time for time in self.keyframes if time <= min(wanted)), default=self.times[0])
            if start > self.times[0]:
                container.seek(start, stream=video)
            for frame in container.decode(video):
                if not wanted:
                    return
                if frame.pts is not None and (places := wanted.pop(frame.pts, None)):
                    pixels = _rgb(convert, frame)
                    yield from ((index, pixels) for index in places)
        if wanted:
            raise DataError(f"{self.path}: cannot decode: {len(wanted)} of {count} wanted frames are damaged")

    def _decode(
        self, wanted: Set[int], listed: tuple[InputContainer, tuple[av.Packet, ...]] | None, *, careful: bool
    ) -> dict[int, NDArray[np.uint8]]:
        """The frames at the `wanted` times, from the packets that opening the file has `listed`, or from the file."""
        start = max((time for time in self.keyframes if time <= min(wanted)), default=self.times[0])
        container, packets = listed or (_opened(self.path), None)
        with container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            stream.codec_context.options = DECODER_OPTIONS
            if packets is None:
                if start > self.times[0]:
                    container.seek(start, stream=stream)
                return _pick(stream.codec_context, container.demux(stream), wanted, careful=careful)
            if start > self.times[0]:
                packets = packets[[packet.is_keyframe and packet.pts == start for packet in packets].index(True) :]
            return _pick(stream.codec_context, packets, wanted, careful=careful)


def _pick(
    context: av.VideoCodecContext, packets: Iterable[av.Packet], wanted: Set[int], *, careful: bool
) -> dict[int, NDArray[np.uint8]]:
    """Pixels of the frames at the `wanted` times, as far as `packets` have them.

    Decoding ends with the last packet of a wanted frame and leaves out what no frame needs. A decoder that answers
    later than it is asked may lose wanted frames by that: `careful` decodes all packets until the frames are there.
    """
    found: dict[int, NDArray[np.uint8]] = {}
    convert = VideoReformatter()

    def collect(frames: list[av.VideoFrame]) -> None:
        for frame in frames:
            if frame.pts is not None and frame.pts in wanted:
                found[frame.pts] = _rgb(convert, frame)

    skips = not careful and _can_skip(context)
    left = set(wanted)
    for packet in packets:
        if not packet.size:
            continue
        if skips:
            context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        collect(context.decode(packet))
        left.discard(packet.pts)
        if len(found) == len(wanted) or not (left or careful):
            break
    collect(context.decode(None))
    return found


def _can_skip(context: av.VideoCodecContext) -> bool:
    if context.name != "hevc":
        return context.name in CAN_SKIP
    # Bits 3 to 5 of byte 21 of an hvcC record: layers in time. A frame that its own layer does not need may serve
    # a higher one.
    record = context.extradata or b""
    return len(record) > 21 and record[0] == 1 and (record[21] >> 3) & 7 == 1


@dataclass(frozen=True, slots=True)
class UntimedVideo:
    """A video whose packets carry no times; frames are counted by decoding from the start."""

    path: Path
    size: tuple[int, int]
    frame_count: int

    def frames(self, indices: Iterable[int], scale: float = 1.0) -> Frames:
        """Decoded frames; see `Media.frames`."""
        return dict(self.in_order(indices))

    def in_order(self, indices: Iterable[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The frames at `indices` one by one; see `VideoFile.in_order`."""
        wanted = set(indices)
        convert = VideoReformatter()
        last = max(wanted)
        with reading(self.path), _opened(self.path) as container:
            container.streams.video[0].codec_context.options = DECODER_OPTIONS
            for index, frame in enumerate(container.decode(video=0)):
                if index in wanted:
                    yield index, _rgb(convert, frame)
                if index == last:
                    return
        raise DataError(f"{self.path}: cannot decode: ends before frame {last}")


def _rgb(convert: VideoReformatter, frame: av.VideoFrame) -> NDArray[np.uint8]:
    """RGB pixels of a decoded frame, a view of the memory they were converted into, whose lines may be padded."""
    rgb = convert.reformat(frame, format="rgb24", threads=1)
    plane = rgb.planes[0]
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(rgb.height, plane.line_size)
    return lines[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)


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


class _Entry(NamedTuple):
    """What is remembered of a packet."""

    time: int | None
    is_shown: bool
    is_keyframe: bool


def _packets(path: Path, container: InputContainer) -> tuple[list[_Entry], list[av.Packet]]:
    """The packets of the first video stream that hold something: all listed, and kept unless they are too large."""
    entries: list[_Entry] = []
    packets: list[av.Packet] = []
    size = 0
    for packet in container.demux(container.streams.video[0]):
        if packet.size:
            entries.append(_Entry(packet.pts, not packet.is_discard, packet.is_keyframe))
            check_frames(path, len(entries))
            size += packet.size
            if size <= HELD_BYTES:
                packets.append(packet)
            else:
                packets.clear()
    return entries, packets


def _timed(path: Path, container: InputContainer, entries: list[_Entry]) -> VideoFile | None:
    """The video that the packets listed are, None where they have no times."""
    stream = container.streams.video[0]
    if len(entries) < stream.frames:
        raise DataError(f"{path}: truncated: {len(entries)} frames of the {stream.frames} in its header")
    shown = [entry for entry in entries if entry.is_shown]
    if not shown:
        raise DataError(f"{path}: cannot decode: holds no frames")
    times = [entry.time for entry in shown if entry.time is not None]
    if len(times) < len(shown):
        return None
    keyframes = tuple(entry.time for entry in shown if entry.is_keyframe and entry.time is not None)
    size = (stream.codec_context.width, stream.codec_context.height)
    return VideoFile(path, size, tuple(sorted(times)), keyframes, stream.index, stream.time_base or Fraction(1))


def open_video(path: Path) -> Media:
    """List the packets of a video file; DataError where it holds no video or ends before its header says."""
    with reading(path):
        found = path.stat()
    return _open_version(path, found.st_size, found.st_mtime_ns)


def let_go(path: Path) -> None:
    """Close the file at `path` if it is held open for its first visit: something else is going to read it."""
    if listed := _listed.take(path):
        listed[0].close()


def forget_videos() -> None:
    """Forget what is known of the files opened so far."""
    _open_version.cache_clear()


@lru_cache(maxsize=1024)
def _open_version(path: Path, size: int, modified: int) -> Media:
    """A file is listed once for each size and time of change."""
    with reading(path):
        container = _opened(path)
        try:
            entries, packets = _packets(path, container)
            video = _timed(path, container, entries)
        except BaseException:
            container.close()
            raise
        if video is not None:
            _listed.hold(path, container, packets)
            return video
        container.close()
    with reading(path), _opened(path) as container:
        context = container.streams.video[0].codec_context
        context.options = DECODER_OPTIONS
        frames = 0
        for _ in container.decode(video=0):
            frames += 1
            check_frames(path, frames)
        if not frames:
            raise DataError(f"{path}: cannot decode: holds no frames")
        return UntimedVideo(path, (context.width, context.height), frames)


def stored_matrix(path: Path) -> tuple[int, int, int, int]:
    """How a video asks players to show its frames: where a step to the right goes, (right, down), and a step down.

    In units of one 65536th; DataError as `open_video`.
    """
    with reading(path), _opened(path) as container:
        container.streams.video[0].codec_context.options = DECODER_OPTIONS
        frame = next(container.decode(video=0), None)
        found = None if frame is None else frame.side_data.get("DISPLAYMATRIX")
        if found is None:
            return 1 << 16, 0, 0, 1 << 16
        a, b, _, c, d, *_ = np.frombuffer(bytes(found), np.int32).tolist()  # type: ignore[call-overload]
        return a, b, c, d


def video_codec(path: Path) -> str:
    """Name of a video's codec, whatever its decoder is called; DataError as `open_video`."""
    with reading(path):
        found = path.stat()
    return _codec_of_version(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1024)
def _codec_of_version(path: Path, size: int, modified: int) -> str:
    with reading(path), _opened(path) as container:
        return container.streams.video[0].codec_context.codec.canonical_name
