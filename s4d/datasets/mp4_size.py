"""Width and height of an mp4 file's picture from its index alone, some microseconds a file; nothing is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# An index of a clip of minutes has some hundred kilobytes.
LARGEST_INDEX = 1 << 25


def frame_size(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels as shown; None for what is no mp4 file, is cut, or has no picture."""
    try:
        with path.open("rb") as stream:
            end = stream.seek(0, 2)
            position = 0
            while position + 8 <= end:
                stream.seek(position)
                head = stream.read(16)
                length = int.from_bytes(head[:4], "big")
                start = 8
                if length == 1:
                    length, start = int.from_bytes(head[8:], "big"), 16
                if length < start or position + length > end:
                    return None
                if head[4:8] == b"moov":
                    if length > LARGEST_INDEX:
                        return None
                    stream.seek(position + start)
                    return _of_index(stream.read(length - start))
                position += length
    except OSError:
        return None
    return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if length < 8:
            return
        yield data[position + 4 : position + 8], data[position + 8 : position + length]
        position += length


def _of_index(index: bytes) -> tuple[int, int] | None:
    """Size in the first track header that has one: its last eight bytes, 16 bits before the point and 16 behind."""
    for name, track in _boxes(index):
        if name == b"trak":
            for inner, header in _boxes(track):
                if inner == b"tkhd" and len(header) >= 84:
                    width, height = (int.from_bytes(part, "big") >> 16 for part in (header[-8:-4], header[-4:]))
                    if width and height:
                        return width, height
    return None
