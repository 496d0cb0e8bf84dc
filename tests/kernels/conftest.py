"""The harness of the kernels' tests: this folder is on the import path of its own tests."""

from __future__ import annotations

import sys
from pathlib import Path

# Last, so that nothing here can hide an installed module.
sys.path.append(str(Path(__file__).resolve().parent))
