"""Which version of a medium lies on disk: by size and time at once, by its content for certain."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from s4d.data.manifest import Kind
from s4d.errors import DataError

BLOCK = 1 << 20


def stamp(path: Path, kind: Kind) -> tuple[int, int]:
    """Bytes and newest change (nanoseconds) of a file, or of a folder and the files in it; zeros if there is none."""
    try:
        found = os.stat(path)
        if kind != "frames":
            return found.st_size, found.st_mtime_ns
        with os.scandir(path) as entries:
            stats = [entry.stat() for entry in entries]
    except (OSError, ValueError):
        return 0, 0
    return sum(entry.st_size for entry in stats), max([found.st_mtime_ns, *(entry.st_mtime_ns for entry in stats)])


def content_digest(files: Iterable[Path]) -> str:
    """SHA-256 of a file; of several, the SHA-256 of theirs in order, whatever their names."""
    digests = []
    for path in files:
        digest = hashlib.sha256()
        try:
            with path.open("rb") as stream:
                while block := stream.read(BLOCK):
                    digest.update(block)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from error
        digests.append(digest)
    if len(digests) == 1:
        return digests[0].hexdigest()
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()
