"""Test files here are imported by path, so the miniatures beside them are found by this alone."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
