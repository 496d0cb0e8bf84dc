"""The header of a shard: what it is, what it belongs to, and a checksum for each record.

Little endian: magic, version, cache id (SHA-256), number of the shard, records, bytes of the file, CRC-32 of header and
table with this field at zero; then, at byte 256, one entry a record: offset, length, CRC-32, 1 if left out, zeros.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4d.data.cache.layout import HEADER_BYTES, data_start
from s4d.data.cache.recipe import VERSION
from s4d.errors import DataError

MAGIC = b"S4DCACHE"
HEADER = struct.Struct("<8sI32sIIQI")
FIELDS = (("offset", "<u8"), ("length", "<u8"), ("crc", "<u4"), ("left_out", "<u4"), ("blank", "<u8"))
Table = NDArray[np.void]
Numbers = Sequence[int] | NDArray[np.int64]


def make_table(offset: Numbers, length: Numbers, crc: Numbers, left_out: Sequence[bool] | NDArray[np.bool_]) -> Table:
    """The records of a shard in order: where each lies, its CRC-32, and whether its medium was left out."""
    table = np.zeros(len(offset), np.dtype(list(FIELDS)))
    columns: dict[str, Any] = {"offset": offset, "length": length, "crc": crc, "left_out": left_out}
    for name, column in columns.items():
        table[name] = column
    return table


def shard_name(cache: str, number: int) -> str:
    """File name of a shard; its cache's id is part of it."""
    return f"{cache[:16]}-{number:05d}.shard"


def encode_header(cache: str, number: int, size: int, entries: Table) -> bytes:
    """Everything of a shard before its first record."""
    table = entries.tobytes().ljust(data_start(len(entries)) - HEADER_BYTES, b"\0")

    def fixed(crc: int) -> bytes:
        return HEADER.pack(MAGIC, VERSION, bytes.fromhex(cache), number, len(entries), size, crc).ljust(
            HEADER_BYTES, b"\0"
        )

    return fixed(zlib.crc32(table, zlib.crc32(fixed(0)))) + table


def read_header(path: Path, cache: str, number: int) -> Table:
    """Check a shard's size and header against what it should be and return its table; DataError names the field."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            head = stream.read(HEADER_BYTES)
            if len(head) < HEADER_BYTES:
                raise DataError(f"{path}: size: {size} bytes are too few for a shard")
            magic, version, owner, found, records, expected, crc = HEADER.unpack_from(head)
            if magic != MAGIC:
                raise DataError(f"{path}: magic: not a shard of a cache")
            if version != VERSION:
                raise DataError(f"{path}: version: expected {VERSION}, got {version}")
            if size != expected:
                raise DataError(f"{path}: size: expected {expected} bytes, got {size}")
            length = data_start(records)
            table = stream.read(length - HEADER_BYTES) if length <= size else b""
    except OSError as error:
        raise DataError(f"{path}: cannot read this shard: {error.strerror}") from error
    at = HEADER.size - 4
    blank = head[:at] + bytes(4) + head[HEADER.size :]
    if len(table) != length - HEADER_BYTES or zlib.crc32(table, zlib.crc32(blank)) != crc:
        raise DataError(f"{path}: checksum: the header is damaged")
    if owner.hex() != cache:
        raise DataError(f"{path}: cache id: a shard of another cache, {owner.hex()[:16]}")
    if found != number:
        raise DataError(f"{path}: number: expected shard {number}, got {found}")
    return np.frombuffer(table, np.dtype(list(FIELDS)), records)
