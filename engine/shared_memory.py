"""What programs leave in /dev/shm when they are killed before they can remove it; semaphores are swept."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path("/dev/shm")
PATTERN = "sem.mp-*"
MIN_AGE_SECONDS = 600.0
# Semaphores and shared memory of Python's multiprocessing, tensors of torch, buffers of NCCL and of DeepSpeed.
SEGMENTS = (PATTERN, "psm_*", "torch_*", "nccl-*", "deepspeed_*")


def sweep_semaphores(folder: Path = FOLDER, *, min_age: float = MIN_AGE_SECONDS) -> list[str]:
    """Remove this user's multiprocessing semaphores that no living process has mapped; returns their names.

    A run killed with all its helpers leaves a few pages behind for each data worker. The age spares programs that are
    just starting.
    """
    dead = dead_segments(folder, (PATTERN,), min_age=min_age)
    for path in dead:
        path.unlink(missing_ok=True)
    return [path.name for path in dead]


def dead_segments(
    folder: Path = FOLDER, patterns: Sequence[str] = SEGMENTS, *, min_age: float = MIN_AGE_SECONDS
) -> list[Path]:
    """This user's files of such names that no living process has mapped, sorted."""
    limit = time.time() - min_age
    found: dict[int, Path] = {}
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if status.st_uid == os.getuid() and status.st_mtime <= limit:
            found[status.st_ino] = path
    mapped = _mapped_inodes() if found else set()
    return sorted(path for inode, path in found.items() if inode not in mapped)


def _mapped_inodes() -> set[int]:
    # By inode: the C library makes a semaphore under a name of its own, which is the one shown as mapped.
    inodes: set[int] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = maps.read_text(errors="replace").splitlines()
        except OSError:
            continue
        inodes.update(int(line.split()[4]) for line in lines if "/dev/shm" in line or "/sem." in line)
    return inodes
