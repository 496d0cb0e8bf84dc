"""Opens a finished cache, and finds the frames of a row in it: nothing is decoded and nothing copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from s4d.data import current_file
from s4d.data.cache.index import DONE, TABLE, Index, read_index
from s4d.data.cache.layout import Medium, Record
from s4d.data.cache.mapped import CachedFrames, mapped_shard
from s4d.data.cache.shard import read_header, shard_name
from s4d.data.manifest import ManifestRow
from s4d.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class CachedRows:
    """Rows of a source and where the cache in `folder` has them; opens maps in whatever process reads."""

    folder: str
    id: str
    records: tuple[int, ...]

    def open(self, row: int) -> CachedFrames:
        """Frames of a row; DataError for a medium that was unreadable when the cache was made."""
        # A cache is no medium: what happens from here on is not the fault of the file read before.
        current_file.finished()
        index, number = _index(self.folder, self.id), self.records[row]
        if number in index.problems:
            raise DataError(f"{index.problems[number]} (left out of the cache {self.folder})")
        record = record_of(index, number)
        shard = mapped_shard(self.folder, shard_name(self.id, record.shard), index.shards[record.shard])
        return CachedFrames(record.frame_count, record.size, record, shard)


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
