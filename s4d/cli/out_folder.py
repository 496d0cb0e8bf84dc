"""The folder of results, looked at before the work: nothing should be computed that cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

from s4d.errors import DataError, UsageError


def refuse_unwritable(out: Path) -> None:
    """UsageError if `out` is no folder, or cannot be made or written; nothing is made here."""
    place = nearest(out)
    if not place.is_dir():
        raise UsageError(f"--out {out}: {place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"--out {out}: {place} cannot be written")


def refuse_existing(out: Path) -> None:
    """DataError if there is an `out` already, UsageError if it cannot be made; nothing is made here."""
    if os.path.lexists(out):
        raise DataError(f"{out}: already exists")
    refuse_unwritable(out)


def nearest(folder: Path) -> Path:
    """What is there already of a path: itself or the first above it, be it a folder or not."""
    # Of a link that leads nowhere the name is taken.
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))
