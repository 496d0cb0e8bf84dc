"""Damage to files: of bits and bytes anywhere, and of the parts that a container is made of.

A part is (start, end, where its length stands, how many bytes that takes, whether big endian): box, element, chunk or
segment. All choices come from the generator given, so a damaged file can be made again from its number.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

TELLING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
BOXES_WITH_BOXES = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"moof", b"traf", b"mvex", b"udta"}
ELEMENTS_WITH_ELEMENTS = {
    b"\x18\x53\x80\x67",  # Segment
    b"\x16\x54\xae\x6b",  # Tracks
    b"\xae",  # TrackEntry
    b"\xe0",  # Video
    b"\x1f\x43\xb6\x75",  # Cluster
    b"\x15\x49\xa9\x66",  # Info
    b"\xa0",  # BlockGroup
    b"\x1c\x53\xbb\x6b",  # Cues
    b"\xbb",  # CuePoint
}


class Part(NamedTuple):
    start: int
    content: int
    end: int
    length_at: int
    length_bytes: int
    big: bool


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Part]:
    """Boxes of an mp4 file, nested ones after the one they lie in."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size = int.from_bytes(data[start : start + 4], "big")
        if size < 8 or start + size > end:
            return
        yield Part(start, start + 8, start + size, start, 4, True)
        if data[start + 4 : start + 8] in BOXES_WITH_BOXES:
            yield from boxes(data, start + 8, start + size)
        start += size


def elements(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Part]:
    """Elements of a Matroska file."""
    end = len(data) if end is None else end
    while start + 2 <= end and data[start]:
        length_at = start + 9 - data[start].bit_length()
        if length_at >= end or not data[length_at]:
            return
        width = 9 - data[length_at].bit_length()
        size = int.from_bytes(data[length_at : length_at + width], "big") & ((1 << 7 * width) - 1)
        content = length_at + width
        stop = end if size == (1 << 7 * width) - 1 else content + size
        if stop > end:
            return
        yield Part(start, content, stop, length_at, width, True)
        if data[start:length_at] in ELEMENTS_WITH_ELEMENTS:
            yield from elements(data, content, stop)
        start = stop


def riff_chunks(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Part]:
    """Chunks of an AVI or WebP file."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        stop = min(end, start + 8 + size + size % 2)
        yield Part(start, start + 8, stop, start + 4, 4, False)
        if data[start : start + 4] in (b"RIFF", b"LIST"):
            yield from riff_chunks(data, start + 12, stop)
        start = stop


def png_chunks(data: bytes) -> Iterator[Part]:
    """Chunks of a PNG file, the checksum included."""
    start = 8
    while start + 12 <= len(data):
        stop = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if stop > len(data):
            return
        yield Part(start, start + 8, stop, start, 4, True)
        start = stop


def jpeg_segments(data: bytes) -> Iterator[Part]:
    """Segments of a JPEG file up to the coded data."""
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF:
        stop = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if stop > len(data):
            return
        yield Part(start, start + 4, stop, start + 2, 2, True)
        start = stop


def parts_of(data: bytes) -> list[Part]:
    """The parts of any file made here."""
    if data[4:8] == b"ftyp":
        return list(boxes(data))
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return list(elements(data))
    if data.startswith(b"RIFF"):
        return list(riff_chunks(data))
    return list(png_chunks(data) if data.startswith(b"\x89PNG") else jpeg_segments(data))


def _flip_bits(data: bytearray, draw: np.random.Generator) -> None:
    for _ in range(int(draw.integers(1, 17))):
        data[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))


def _noise(data: bytearray, draw: np.random.Generator) -> None:
    at, size = int(draw.integers(len(data))), int(draw.integers(1, 65))
    data[at : at + size] = draw.bytes(size)


def _zeros(data: bytearray, draw: np.random.Generator) -> None:
    at, size = int(draw.integers(len(data))), int(draw.integers(1, 1025))
    data[at : at + size] = bytes(len(data[at : at + size]))


def _cut(data: bytearray, draw: np.random.Generator) -> None:
    del data[int(draw.integers(len(data))) :]


def _remove(data: bytearray, draw: np.random.Generator) -> None:
    at = int(draw.integers(len(data)))
    del data[at : at + int(draw.integers(1, 2049))]


def _repeat(data: bytearray, draw: np.random.Generator) -> None:
    at = int(draw.integers(len(data)))
    data[at:at] = data[at : at + int(draw.integers(1, 2049))]


def _telling_number(data: bytearray, draw: np.random.Generator) -> None:
    """A number at which programs err, anywhere."""
    _put_number(data, int(draw.integers(len(data))), int(draw.choice((1, 2, 4))), bool(draw.integers(2)), draw)


def _part_length(data: bytearray, draw: np.random.Generator) -> None:
    part = _any_part(data, draw)
    if part.length_bytes > 4 or draw.integers(2):
        data[part.length_at + part.length_bytes - 1] ^= int(draw.integers(1, 256))
    else:
        _put_number(data, part.length_at, part.length_bytes, part.big, draw)


def _part_name(data: bytearray, draw: np.random.Generator) -> None:
    part, other = _any_part(data, draw), _any_part(data, draw)
    data[part.start : part.start + 8] = data[other.start : other.start + 8]


def _part_gone(data: bytearray, draw: np.random.Generator) -> None:
    part = _any_part(data, draw)
    del data[part.start : part.end]


def _part_twice(data: bytearray, draw: np.random.Generator) -> None:
    part, other = _any_part(data, draw), _any_part(data, draw)
    data[other.start : other.start] = data[part.start : part.end][: 1 << 16]


def _part_content(data: bytearray, draw: np.random.Generator) -> None:
    """Numbers at which programs err inside a header: counts, offsets, sizes, times."""
    for _ in range(int(draw.integers(1, 4))):
        part = _any_part(data, draw)
        room = min(part.end - part.content, 128)
        if room > 0:
            at = part.content + int(draw.integers(room))
            _put_number(data, at, int(draw.choice((1, 2, 4))), bool(draw.integers(2)), draw)


def _any_part(data: bytearray, draw: np.random.Generator) -> Part:
    parts = parts_of(bytes(data))
    return parts[int(draw.integers(len(parts)))] if parts else Part(0, min(8, len(data)), len(data), 0, 4, True)


def _put_number(data: bytearray, at: int, size: int, big: bool, draw: np.random.Generator) -> None:
    value = int(draw.choice(TELLING)) & ((1 << 8 * size) - 1)
    data[at : at + size] = value.to_bytes(size, "big" if big else "little")[: len(data[at : at + size])]


def _right_checksums(data: bytearray) -> None:
    """Make the checksums of a PNG right again, so that decoders look further."""
    for part in list(png_chunks(bytes(data))):
        data[part.end - 4 : part.end] = zlib.crc32(data[part.start + 4 : part.end - 4]).to_bytes(4, "big")


DAMAGES: tuple[Callable[[bytearray, np.random.Generator], None], ...] = (
    _flip_bits,
    _noise,
    _zeros,
    _cut,
    _remove,
    _repeat,
    _telling_number,
    _part_length,
    _part_name,
    _part_gone,
    _part_twice,
    _part_content,
)


def damaged(data: bytes, draw: np.random.Generator) -> bytes:
    """A copy of a file with one to three damages."""
    changed = bytearray(data)
    for _ in range(int(draw.integers(1, 4))):
        if changed:
            DAMAGES[int(draw.integers(len(DAMAGES)))](changed, draw)
    if changed.startswith(b"\x89PNG") and draw.integers(2):
        _right_checksums(changed)
    return bytes(changed)
