"""What an opened sample is, whatever it is stored as, and how to open one; every failure is one DataError.

Opening a medium reads headers only; `frames` decodes exactly the wanted indices. Indices of a video count its frames in
presentation order, so they are exact for variable frame rates too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from s4d.data import current_file
from s4d.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})

# Frame number -> RGB pixels (height, width, 3) uint8, views of the decoder's memory: lines may be padded, and pixels
# three or four bytes apart, so an array need not be contiguous.
Frames = dict[int, NDArray[np.uint8]]


class Media(Protocol):
    """An opened sample: its number of frames, the size of a frame, and the frames themselves."""

    @property
    def frame_count(self) -> int: ...
    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        ...

    def frames(self, indices: Iterable[int], scale: float = 1.0) -> Frames:
        """RGB pixels of the frames `indices`; down to `scale` of the full size where that is cheaper to decode."""
        ...


def open_media(path: Path, kind: str, order: str = "natural") -> Media:
    """Open a sample of a manifest's `kind`; DataError names a file that cannot be read."""
    from s4d.data import decode_image, decode_video

    current_file.starting(path)
    if kind == "video":
        return decode_video.open_video(path)
    return decode_image.open_files((path,) if kind == "image" else list_frames(path, order))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that counts: frame 2 before frame 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


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


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises on a bad file into one line with the file's name."""
    current_file.starting(path)
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        # Not the file's fault if the process has used up its memory before; a new process tells.
        if current_file.is_watched():
            raise
        raise DataError(f"{path}: cannot decode: not enough memory") from error
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
