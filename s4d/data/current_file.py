"""The file a decoding process is at work on, noted before it is opened for the process that watches it.

A damaged file can end or occupy the process that decodes it. The note survives that, so the file can be named, and
refused from then on.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s4d.errors import DataError

NOTE_BYTES = 8192
HEAD = struct.Struct("=QI")

_memory: Any = None
_count = 0
_refused: dict[str, str] = {}


def watch(memory: Any) -> None:
    """Note files in `memory`, NOTE_BYTES bytes shared with the process that watches this one."""
    global _memory
    _memory = memoryview(memory).cast("B")


def is_watched() -> bool:
    """Whether this is a decoding process, which may end without loss."""
    return _memory is not None


def refuse(reasons: Mapping[str, str]) -> None:
    """Open the files in `reasons` no more; a DataError with the reason takes their place."""
    _refused.update(reasons)


def starting(path: Path) -> None:
    """Say that `path` is opened or decoded next; DataError where that has ended a decoding process before."""
    if _memory is None:
        return
    text = os.fspath(path)
    if text in _refused:
        raise DataError(f"{path}: cannot decode: {_refused[text]}")
    _write(os.fsencode(text)[: NOTE_BYTES - HEAD.size])


def finished() -> None:
    """Say that no file is being worked on."""
    if _memory is not None:
        _write(b"")


def _write(text: bytes) -> None:
    global _count
    _count += 1
    _memory[HEAD.size : HEAD.size + len(text)] = text
    _memory[: HEAD.size] = HEAD.pack(_count, len(text))


def read_note(memory: Any) -> tuple[int, str]:
    """How many notes a process has written to `memory`, and the file it is at work on ('' for none)."""
    count, length = HEAD.unpack(bytes(memory[: HEAD.size]))
    return count, os.fsdecode(bytes(memory[HEAD.size : HEAD.size + length]))
