"""The folder of results, looked at before the work: nothing should be computed that cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

from s4d.errors import UsageError


def refuse_unwritable(out: Path) -> None:
    """UsageError if `out` is no folder, or cannot be made or written; nothing is made here."""
    # Of a link that leads nowhere the name is taken.
    place = next(folder for folder in (out, *out.parents) if os.path.lexists(folder))
    if not place.is_dir():
        raise UsageError(f"--out {out}: {place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"--out {out}: {place} cannot be written")
