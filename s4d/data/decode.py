"""Frames of one image, folder of frames or video file as Pillow RGB images; every failure is one DataError.

Opening a medium reads headers only; `frames` decodes exactly the wanted indices. Indices of a video count its frames in
presentation order, so they are exact for variable frame rates too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import av
from av.video.reformatter import VideoReformatter
from PIL import Image

from s4d.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})

Frames = dict[int, Image.Image]


class Media(Protocol):
    """An opened sample: its number of frames, the size of a frame, and the frames themselves."""

    @property
    def frame_count(self) -> int: ...
    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        ...

    def frames(self, indices: Iterable[int], scale: float = 1.0) -> Frames:
        """RGB images of the frames `indices`; down to `scale` of the full size where that is cheaper to decode."""
        ...


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that counts: frame 2 before frame 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises on a bad file into one line with the file's name."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # damaged files make Pillow and PyAV raise anything, TypeError and AttributeError too
        raise DataError(f"{path}: cannot decode: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    try:
        if path.is_file() and path.stat().st_size == 0:
            return "the file is empty"
    except OSError:
        pass
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]


def _load_image(path: Path, scale: float) -> Image.Image:
    with _reading(path), Image.open(path) as image:
        if scale <= 0.5:
            # A JPEG decodes directly at 1/2, 1/4 or 1/8 size, never below the size asked for.
            image.draft("RGB", (int(image.width * scale) + 1, int(image.height * scale) + 1))
        return image.convert("RGB")


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Frames that are image files of their own: a still image is one of them."""

    paths: tuple[Path, ...]
    size: tuple[int, int]

    @property
    def frame_count(self) -> int:
        """Number of files."""
        return len(self.paths)

    def frames(self, indices: Iterable[int], scale: float = 1.0) -> Frames:
        """Decoded frames; see `Media.frames`."""
        return {index: _load_image(self.paths[index], scale) for index in sorted(set(indices))}


def list_frames(folder: Path, order: str = "natural") -> tuple[Path, ...]:
    """Image files of a folder in time order; `lexicographic` sorts names as text, as the released code does."""
    try:
        names = [name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    except OSError as error:
        raise DataError(f"{folder}: cannot list frames: {error.strerror}") from error
    if not names:
        raise DataError(f"{folder}: no frames (image files) in this folder")
    names.sort(key=natural_key if order == "natural" else None)
    return tuple(folder / name for name in names)


def _open_files(paths: tuple[Path, ...]) -> ImageFiles:
    with _reading(paths[0]), Image.open(paths[0]) as first:
        return ImageFiles(paths, first.size)


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
        with _reading(self.path), av.open(str(self.path)) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            start = max((time for time in self.keyframes if time <= first), default=None)
            if start is not None and start > self.times[0]:
                container.seek(start, stream=stream)
            for frame in container.decode(stream):
                if frame.pts in wanted:
                    found[wanted[frame.pts]] = _to_image(convert, frame)
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
        with _reading(self.path), av.open(str(self.path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index in wanted:
                    found[index] = _to_image(convert, frame)
                if len(found) == len(wanted):
                    return found
        raise DataError(f"{self.path}: cannot decode: ends before frame {max(wanted)}")


def _to_image(convert: VideoReformatter, frame: av.VideoFrame) -> Image.Image:
    """RGB image of a decoded frame; one converter per file keeps its tables, which cost more than a frame."""
    return Image.fromarray(convert.reformat(frame, format="rgb24", threads=1).to_ndarray())


@lru_cache(maxsize=1024)
def _open_video(path: Path) -> Media:
    with _reading(path), av.open(str(path)) as container:
        if not container.streams.video:
            raise DataError(f"{path}: holds no video stream")
        stream = container.streams.video[0]
        size = (stream.codec_context.width, stream.codec_context.height)
        packets = [packet for packet in container.demux(stream) if packet.size]
        if not packets:
            raise DataError(f"{path}: cannot decode: holds no frames")
        if len(packets) < stream.frames:
            raise DataError(f"{path}: truncated: {len(packets)} frames of the {stream.frames} in its header")
        shown = [packet for packet in packets if not packet.is_discard]
        times = [packet.pts for packet in shown if packet.pts is not None]
        if len(times) == len(shown):
            keyframes = tuple(packet.pts for packet in shown if packet.is_keyframe and packet.pts is not None)
            return VideoFile(path, size, tuple(sorted(times)), keyframes)
    with _reading(path), av.open(str(path)) as container:
        return UntimedVideo(path, size, sum(1 for _ in container.decode(video=0)))


OPEN: dict[str, Callable[[Path, str], Media]] = {
    "image": lambda path, order: _open_files((path,)),
    "frames": lambda path, order: _open_files(list_frames(path, order)),
    "video": lambda path, order: _open_video(path),
}


def open_media(path: Path, kind: str, order: str = "natural") -> Media:
    """Open a sample of a manifest's `kind`; DataError names a file that cannot be read."""
    return OPEN[kind](path, order)
