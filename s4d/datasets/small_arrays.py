"""Tiny `.npy` files, one of them per sample and field: read by their bytes, many at a time.

A package of 290,000 images comes with over a million of them. numpy's own reader opens a buffered file and parses the
header as Python source for each; here it is parsed once per form, and threads share the waiting for the disk.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from s4d.errors import DataError

MAGIC = b"\x93NUMPY"
# Bytes of the fields before the header text: magic, two of version, two (version 1) or four of the header's length.
PREFIX = {1: 10, 2: 12, 3: 12}
LARGEST = 1 << 16
THREADS = 16
CHUNK = 256

Loaded = TypeVar("Loaded")


def load_small(path: str) -> NDArray[np.generic]:
    """The numbers or text of one file of at most 64 KiB, flat; DataError names the file. Never runs what is in it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(handle, LARGEST + 1)
        finally:
            os.close(handle)
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    start = PREFIX.get(data[6]) if len(data) > 12 and data.startswith(MAGIC) else None
    if start is None:
        raise DataError(f"{path}: no npy file" if data else f"{path}: the file is empty")
    end = start + int.from_bytes(data[8:start], "little")
    try:
        dtype, count = _header(data[start:end])
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise DataError(f"{path}: not a readable npy header: {str(error).splitlines()[0]}") from error
    if len(data) != end + count * dtype.itemsize:
        raise DataError(f"{path}: {len(data)} bytes, expected {end + count * dtype.itemsize}")
    return np.frombuffer(data, dtype, count, end)


def load_each(paths: Sequence[str], convert: Callable[[str], Loaded]) -> Iterator[Loaded]:
    """`convert` of each path, in order, by several threads: most of the time is spent waiting for the file system."""
    chunks = [paths[first : first + CHUNK] for first in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        for part in pool.map(lambda chunk: [convert(path) for path in chunk], chunks):
            yield from part


@lru_cache(maxsize=64)
def _header(text: bytes) -> tuple[np.dtype[np.generic], int]:
    fields = ast.literal_eval(text.decode("latin-1").strip())
    dtype, shape = np.dtype(fields["descr"]), fields["shape"]
    if dtype.kind not in "iufUS" or dtype.itemsize == 0:
        raise ValueError(f"holds {dtype}, expected numbers or text")
    if not isinstance(shape, tuple) or any(not isinstance(size, int) or size < 0 for size in shape):
        raise ValueError(f"shape {shape!r}")
    count = 1
    for size in shape:
        count *= size
    return dtype, count
