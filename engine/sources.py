"""Which code this is: a hash of the project's own sources and the versions that decide what is computed.

Imports nothing heavy, so that it can be asked of many machines at once.
"""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("engine", "kernels", "s4d")


@cache
def source_hash(root: Path = ROOT) -> str:
    """Short hash of all Python sources of this project, as they lie on this machine."""
    total = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            total.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()[:12]


def versions() -> dict[str, str]:
    """What is installed on this machine, under names for a reader."""
    return {
        "the engine's sources": source_hash(),
        "Python": platform.python_version(),
        "torch": metadata.version("torch"),
        "DeepSpeed": metadata.version("deepspeed"),
    }
