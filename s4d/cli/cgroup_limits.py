"""What a container or a job may use of its machine: processor time and memory, by control groups of both versions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")
# Version 1 writes "no limit" as the largest number of whole pages.
UNLIMITED = 1 << 60


def processor_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time that this process may take at most; None without a limit."""
    found: list[float] = []
    for folder in _folders(root, "cpu"):
        limit = _words(folder / "cpu.max") or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(limit) == 2 and limit[0].isdigit() and limit[1].isdigit() and int(limit[1]):
            found.append(int(limit[0]) / int(limit[1]))
    return min(found, default=None)


def free_memory(root: Path = ROOT) -> tuple[int, int]:
    """Bytes that this process may take in all, and those of them that are free or could be freed at once."""
    machine = {line.split(":")[0]: int(line.split()[1]) << 10 for line in _lines(root / "proc/meminfo") if ":" in line}
    total, free = machine.get("MemTotal", 0), machine.get("MemAvailable", 0)
    for folder in _folders(root, "memory"):
        limit = _number(folder, "memory.max", "memory.limit_in_bytes")
        used = _number(folder, "memory.current", "memory.usage_in_bytes")
        if limit is None or used is None or limit >= UNLIMITED:
            continue
        pages = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat") if " " in line)
        files = int(pages.get("total_inactive_file") or pages.get("inactive_file") or 0)
        total, free = min(total, limit), min(free, max(0, limit - used + files))
    return total, free


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the groups that this process is in, from its own up; a container may show the last of them alone."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        folder = mount / path.lstrip("/")
        while folder != mount:
            yield folder
            folder = folder.parent
        yield mount


def _number(folder: Path, *names: str) -> int | None:
    """The number in the first of these files that has one."""
    for name in names:
        words = _words(folder / name)
        if words and words[0].isdigit():
            return int(words[0])
    return None


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    return []
