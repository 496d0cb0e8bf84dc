"""Frames of a finished cache, straight from the mapped file: nothing is decoded and nothing copied."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s4d.data.cache.index import DONE, TABLE, Index, read_index
from s4d.data.cache.layout import Medium, Record
from s4d.data.cache.shard import read_header, shard_name
from s4d.data.manifest import ManifestRow
from s4d.data.media import Frames
from s4d.errors import DataError

# Each map holds an open file, of which a process may have 1,024.
OPEN_MAPS = 256


@dataclass(frozen=True, slots=True)
class CachedFrames:
    """A sample as the cache has it: frame count and size are the medium's own, its frames are smaller."""

    frame_count: int
    size: tuple[int, int]
    step: int
    pixels: NDArray[np.uint8]

    def frames(self, indices: Iterable[int], scale: float = 1.0) -> Frames:
        """Views of the mapped shard, not to be written to; see `Media.frames`."""
        return {index: self.pixels[index // self.step] for index in indices}


@dataclass(frozen=True, slots=True, eq=False)
class CachedRows:
    """Rows of a source and where the cache in `folder` has them; opens maps in whatever process reads."""

    folder: str
    id: str
    records: tuple[int, ...]

    def open(self, row: int) -> CachedFrames:
        """Frames of a row; DataError for a medium that was unreadable when the cache was made."""
        index, number = _index(self.folder, self.id), self.records[row]
        if number in index.problems:
            raise DataError(f"{index.problems[number]} (left out of the cache {self.folder})")
        record = record_of(index, number)
        width, height = record.stored
        pixels = np.ndarray(
            (record.kept, height, width, 3),
            np.uint8,
            buffer=_map(self.folder, self.id, record.shard, index.shards[record.shard]),
            offset=record.offset,
            strides=(record.pitch, width * 3, 3, 1),
        )
        return CachedFrames(record.frame_count, record.size, record.step, pixels)


def open_rows(folder: Path, rows: Sequence[ManifestRow], fingerprint: str, origin: str) -> CachedRows:
    """Rows of the manifest `fingerprint` in its cache; DataError, with `origin` in front, for another's cache."""
    index = open_cache(folder)
    if index.fingerprint != fingerprint:
        raise DataError(f"{origin}: {folder / DONE}: manifest: a cache of another manifest, or of other content of it")
    return CachedRows(str(folder), index.id, tuple(index.media[Medium(row.path, row.kind)] for row in rows))


def open_cache(folder: Path) -> Index:
    """The index of a finished cache, after a look at the header and size of each shard; DataError names the file."""
    index = read_index(folder)
    first = np.searchsorted(index.column("shard"), np.arange(len(index.shards) + 1))
    left_out = np.zeros(len(index.media), bool)
    left_out[list(index.problems)] = True
    for shard, size in enumerate(index.shards):
        path = folder / shard_name(index.id, shard)
        of = slice(first[shard], first[shard + 1])
        table = read_header(path, index.id, shard)
        if len(table) != of.stop - of.start or any(
            not np.array_equal(table[name], column[of])
            for name, column in (
                ("offset", index.column("offset")),
                ("crc", index.column("crc32")),
                ("left_out", left_out),
            )
        ):
            raise DataError(f"{path}: table: differs from {folder / TABLE}")
        if path.stat().st_size != size:
            raise DataError(f"{path}: size: expected {size} bytes as in {folder / DONE}, got {path.stat().st_size}")
    return index


def record_of(index: Index, number: int) -> Record:
    """The place of medium `number`."""
    shard, place, offset, frame_count, *sizes, step, pitch, _ = index.numbers[number].tolist()
    return Record(
        shard=shard,
        place=place,
        offset=offset,
        frame_count=frame_count,
        size=(sizes[0], sizes[1]),
        stored=(sizes[2], sizes[3]),
        step=step,
        pitch=pitch,
    )


@lru_cache
def _index(folder: str, cache: str) -> Index:
    """The index as this process first saw it: looked at for every sample, so without a look at the disk."""
    index = read_index(Path(folder))
    if index.id != cache:
        raise DataError(f"{Path(folder) / DONE}: id: this cache was replaced by another one during the run")
    return index


@lru_cache(maxsize=OPEN_MAPS)
def _map(folder: str, cache: str, shard: int, size: int) -> mmap.mmap:
    path = Path(folder) / shard_name(cache, shard)
    try:
        with path.open("rb") as stream:
            found = stream.seek(0, 2)
            if found != size:
                raise DataError(f"{path}: size: expected {size} bytes, got {found}")
            return mmap.mmap(stream.fileno(), size, prot=mmap.PROT_READ)
    except OSError as error:
        raise DataError(f"{path}: cannot map this shard: {error.strerror}") from error
