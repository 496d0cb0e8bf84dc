"""Whole files or no files: written aside, flushed to the disk, then renamed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from s4d.errors import DataError


def flush(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path | str, data: str | bytes) -> None:
    """Replace `path` by `data` in one step, so that a reader or a crash never meets half a file."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as stream:
            stream.write(data.encode("utf-8") if isinstance(data, str) else data)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        at = f": {error.filename}" if error.filename not in (None, str(path), str(aside)) else ""
        raise DataError(f"{path}: cannot write: {error.strerror or error}{at}") from error
