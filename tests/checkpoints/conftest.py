"""The modules of this folder, of the engine's tests and of the trials are on the import path of its tests."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "engine", HERE.parent / "faults"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
