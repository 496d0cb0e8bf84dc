"""The fakes and launchers of the engine's tests and the harness of trials are on the import path of these tests."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "engine", HERE.parent / "faults"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
