"""The second pass: decode each medium once, scale its frames down and write them to their place, in processes."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s4d.data.cache.layout import Medium, Record, aligned_length
from s4d.data.media import Media, open_media
from s4d.data.media_limits import media_path
from s4d.data.pillow_memory import STEP, packed, picture_of
from s4d.errors import DataError

# Decoded frames held at once.
CHUNK_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Filled:
    """What was written for a record: the CRC-32 of its bytes up to the next page, or why it was left out."""

    crc: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Filling:
    """Writes record number n into the shard that is being made, in any process."""

    root: Path
    media: tuple[Medium, ...]
    records: tuple[Record, ...]
    parts: tuple[Path, ...]
    order: str

    def __getitem__(self, number: int) -> Filled:
        record = self.records[number]
        part = self.parts[record.shard]
        try:
            target = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                try:
                    return Filled(_write(target, record, self._chunks(number)))
                except DataError as error:
                    return Filled(_write(target, record, iter(())), str(error))
            finally:
                os.close(target)
        except OSError as error:
            raise DataError(f"{part}: cannot write: {error.strerror or error}") from error

    def _chunks(self, number: int) -> Iterator[NDArray[np.uint8]]:
        """The kept frames in order, a few at a time, each padded to the record's pitch."""
        medium, record = self.media[number], self.records[number]
        path = media_path(self.root, medium.path, str(self.root))
        opened = open_media(path, medium.kind, self.order)
        if (opened.frame_count, opened.size) != (record.frame_count, record.size):
            raise DataError(f"{path}: changed while the cache was being made")
        kept = range(0, record.frame_count, record.step)
        at_once = max(1, CHUNK_BYTES // (record.size[0] * record.size[1] * STEP))
        for first in range(0, len(kept), at_once):
            yield _scaled(opened, kept[first : first + at_once], record)


def _write(target: int, record: Record, chunks: Iterator[NDArray[np.uint8]]) -> int:
    """Write the chunks and zeros up to the end of the record's last page; the CRC-32 of all of it."""
    crc, place, end = 0, record.offset, record.offset + aligned_length(record)
    for chunk in chunks:
        data = chunk.reshape(-1).data
        place, crc = _write_bytes(target, data, place), zlib.crc32(data, crc)
    while place < end:
        zeros = bytes(min(end - place, 1 << 20))
        place, crc = _write_bytes(target, memoryview(zeros), place), zlib.crc32(zeros, crc)
    return crc


def _write_bytes(target: int, data: memoryview, place: int) -> int:
    while data:
        written = os.pwrite(target, data, place)
        data, place = data[written:], place + written
    return place


def _scaled(opened: Media, indices: range, record: Record) -> NDArray[np.uint8]:
    """Frames (n, pitch) of the stored size; a JPEG may decode at a smaller scale that still has every pixel needed."""
    width, height = record.stored
    scale = max(width / record.size[0], height / record.size[1])
    frames = opened.frames(indices, scale)
    out = np.zeros((len(indices), record.pitch), np.uint8)
    room = out[:, : height * width * 3].reshape(len(indices), height, width, 3)
    for place, index in enumerate(indices):
        frame = frames.pop(index)
        if frame.shape[:2] != (height, width):
            # The sharpest of Pillow's filters: training resamples once more.
            frame = np.asarray(picture_of(frame).resize(record.stored, Image.Resampling.LANCZOS))
        room[place] = packed(frame)
    return out
