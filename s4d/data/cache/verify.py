"""Reads every byte of a cache again."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

from s4d.data.cache.read import open_cache
from s4d.data.cache.shard import read_header, shard_name
from s4d.errors import DataError

READ_BYTES = 4 << 20


def verify_cache(folder: Path, advance: Callable[[int, int], None]) -> list[str]:
    """One line for each damaged record; `advance` hears of shards checked and in all.

    DataError for a cache that cannot be opened at all.
    """
    index = open_cache(folder)
    media = list(index.media)
    damaged: list[str] = []
    first = 0
    for shard in range(len(index.shards)):
        advance(shard, len(index.shards))
        path = folder / shard_name(index.id, shard)
        table = read_header(path, index.id, shard)
        try:
            with path.open("rb") as stream:
                for place, entry in enumerate(table):
                    stream.seek(int(entry["offset"]))
                    left, crc = int(entry["length"]), 0
                    while left and (data := stream.read(min(left, READ_BYTES))):
                        crc, left = zlib.crc32(data, crc), left - len(data)
                    if crc != entry["crc"] or left:
                        damaged.append(f"{path}: record {place} ({media[first + place].path}): checksum: damaged")
        except OSError as error:
            raise DataError(f"{path}: cannot read this shard: {error.strerror}") from error
        first += len(table)
    advance(len(index.shards), len(index.shards))
    return damaged
