"""Something to predict on, whatever it is stored as: its frames upright and one at a time, and when they are shown."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4d.data.crop.media_files import frame_times
from s4d.data.decode_video import UntimedVideo, VideoFile
from s4d.data.manifest import Kind
from s4d.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Frames, Media, open_media
from s4d.data.media_limits import video_input
from s4d.data.upright import UPRIGHT, Orientation, orientation_of
from s4d.errors import DataError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """An opened sample. `times` are the seconds at which its frames start and `fps` their mean rate, where known.

    `name` keys the router noise of models that keep it in evaluation, as a manifest's sample id does there.
    """

    name: str
    kind: Kind
    media: Media
    orientation: Orientation
    times: Sequence[float] | None
    fps: float | None

    @property
    def frame_count(self) -> int:
        """Frames that the sample has; 1 for a picture."""
        return self.media.frame_count

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of an upright frame."""
        return self.orientation.size(self.media.size)

    def stream(self, indices: Iterable[int], scale: float = 1.0) -> Iterator[tuple[int, Pixels]]:
        """(number, upright pixels) of the frames at `indices`; a frame is let go of before the next is decoded.

        Down to `scale` of the full size where that is cheaper to decode. DataError where one cannot be decoded.
        """
        if isinstance(self.media, VideoFile | UntimedVideo):
            frames = self.media.in_order(indices)
        else:
            frames = ((index, self.media.frames((index,), scale)[index]) for index in sorted(set(indices)))
        for index, pixels in frames:
            yield index, self.orientation.turn(pixels)

    def seconds(self, frame: int) -> float | None:
        """When frame `frame` starts; the frame behind the last starts when the last ends."""
        if self.times is None:
            return None
        if frame < len(self.times):
            return self.times[frame]
        return self.times[-1] + (1.0 / self.fps if self.fps else 0.0)


@dataclass(frozen=True, slots=True)
class ArrayMedia:
    """Frames in memory, (F, H, W, 3) uint8."""

    pixels: Pixels

    @property
    def frame_count(self) -> int:
        """Number of frames."""
        return len(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[2], self.pixels.shape[1]

    def frames(self, indices: Iterable[int], scale: float = 1.0) -> Frames:
        """The frames at `indices`, at full size."""
        return {index: self.pixels[index] for index in indices}


def open_clip(path: Path, *, name: str | None = None, kind: Kind | None = None, order: str = "natural") -> Clip:
    """Open a picture, a video or (kind `frames`) a folder of frames; DataError for anything else."""
    kind = kind or kind_of(path)
    media = open_media(path, kind, order)
    times, fps = _times(media, path) if kind == "video" else (None, None)
    return Clip(
        name=name if name is not None else text_of(path),
        kind=kind,
        media=media,
        orientation=orientation_of(path, kind),
        times=times,
        fps=fps,
    )


def text_of(path: Path | str) -> str:
    """A path as text that can be written anywhere: bytes of a name that are not UTF-8 are spelt out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def clip_of(frames: Any, fps: float | None = None) -> Clip:
    """A clip of uint8 pixels (F, H, W, 3), or a picture of (H, W, 3); ValueError for other arrays."""
    pixels = np.asarray(frames)
    still = pixels.ndim == 3
    pixels = pixels[None] if still else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise ValueError(f"frames: expected uint8 (F, H, W, 3) or (H, W, 3), got {pixels.dtype} {np.shape(frames)}")
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"fps: expected frames a second, got {fps!r}")
    times = None if fps is None or still else [number / fps for number in range(len(pixels))]
    return Clip(
        name="",
        kind="image" if still else "video",
        media=ArrayMedia(np.ascontiguousarray(pixels)),
        orientation=UPRIGHT,
        times=times,
        fps=None if still else fps,
    )


def kind_of(path: Path) -> Kind:
    """What a file is by its name, or, where that says nothing, by its first bytes."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return "frames"
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if suffix in IMAGE_SUFFIXES or suffix in VIDEO_SUFFIXES:
        return "image" if suffix in IMAGE_SUFFIXES else "video"
    for kind, attempt in (("video", lambda: video_input(path)), ("image", lambda: open_media(path, "image"))):
        try:
            attempt()
        except DataError as error:
            if "the file is empty" in str(error) or "truncated" in str(error):
                raise
            continue
        return kind  # type: ignore[return-value]
    raise DataError(f"{path}: neither a picture nor a video of a known kind")


def _times(media: Media, path: Path) -> tuple[list[float], float]:
    """Seconds from the first frame on, and frames a second on average."""
    if isinstance(media, VideoFile):
        first = media.times[0]
        times = [float((time - first) * media.time_base) for time in media.times]
        if times[-1] > 0:
            return times, (len(times) - 1) / times[-1]
    rate = float(frame_times(path)[2])
    return [number / rate for number in range(media.frame_count)], rate
