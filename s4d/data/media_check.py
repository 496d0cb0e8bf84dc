"""A first look at media while a manifest is made: nothing is decoded, so that a million clips take minutes.

Finds what interrupted downloads leave behind, empty files and cut mp4 files; other damage shows when a file is decoded.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from s4d.data.manifest import ManifestRow
from s4d.data.media import IMAGE_SUFFIXES
from s4d.data.media_limits import HEAD_BYTES, bytes_missing, media_path
from s4d.errors import DataError

ISO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov"})
# Containers that state their length in their first bytes.
SIZED_SUFFIXES = frozenset({".mkv", ".webm", ".avi", ".webp"})
INDEX, FRAGMENT, CONTENT = b"moov", b"moof", b"mdat"
FIRST_BOXES = frozenset({b"ftyp", INDEX, CONTENT, b"free", b"skip", b"wide", b"pnot"})


def find_damaged(rows: Sequence[ManifestRow], root: Path) -> dict[str, str]:
    """Path of each damaged medium of `rows`, as the row has it -> one line that names the file and the damage."""
    damaged: dict[str, str] = {}
    for path, kind in {row.path: row.kind for row in rows}.items():
        problem = _outside(root, path) or _problem(root / path, kind)
        if problem is not None:
            damaged[path] = problem
    return damaged


def _problem(path: Path, kind: str) -> str | None:
    try:
        if kind == "frames":
            return _empty_frame(path)
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return f"{path}: not a regular file"
        if found.st_size == 0:
            return f"{path}: the file is empty"
        suffix = path.suffix.lower()
        if suffix in SIZED_SUFFIXES:
            return _short(path, found.st_size)
        return _cut(path, found.st_size) if suffix in ISO_SUFFIXES else None
    except OSError as error:
        return f"{path}: {error.strerror or error}"


def _outside(root: Path, path: str) -> str | None:
    try:
        media_path(root, path, str(root / path))
    except DataError as error:
        return str(error)
    return None


def _short(path: Path, size: int) -> str | None:
    with path.open("rb") as stream:
        missing = bytes_missing(stream.read(HEAD_BYTES), size)
    return f"{path}: truncated: {size} bytes of at least {size + missing}" if missing else None


def _empty_frame(folder: Path) -> str | None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.stat().st_size == 0:
                return f"{entry.path}: the file is empty"
    return None


def _cut(path: Path, size: int) -> str | None:
    """Walk the boxes of an mp4 file: index and content must be there, whole. A file of another kind passes."""
    seen: list[bytes] = []
    position = 0
    with path.open("rb") as stream:
        while position < size:
            stream.seek(position)
            header = stream.read(16)
            length, name = int.from_bytes(header[:4], "big"), header[4:8]
            if length == 1:
                length = int.from_bytes(header[8:], "big")
            if position == 0 and name not in FIRST_BOXES:
                return None
            if len(header) < 8 and any(header) and FRAGMENT in seen:
                return f"{path}: truncated: ends within the header of a box"
            if len(header) < 8 or length < 8:
                # 0 means up to the end; less is padding behind the last box.
                break
            seen.append(name)
            if position + length > size and name in (INDEX, CONTENT, FRAGMENT):
                return f"{path}: truncated: {size} bytes of at least {position + length}"
            position += length
    if seen[-1:] == [FRAGMENT]:
        return f"{path}: truncated: ends between the index and the content of a fragment"
    return None if INDEX in seen else f"{path}: truncated: holds no index of its frames"
