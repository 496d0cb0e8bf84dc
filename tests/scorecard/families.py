"""Processes that belong together whoever their parent is: found by a mark in the environment they inherit."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

MARK = "S4D_FAMILY"


def members(mark: str) -> list[int]:
    """Living processes, zombies left out, whose environment was begun with `mark` in `S4D_FAMILY`.

    A family within a family is marked `outer/inner`; it belongs to both.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            entries = (process / "environ").read_bytes().split(b"\0")
            own = next((entry for entry in entries if entry.startswith(f"{MARK}=".encode())), b"")
            marks = own.partition(b"=")[2].decode(errors="replace").split("/")
            # The state follows the name, which may hold brackets of its own.
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if mark in marks and state not in "ZX":
                found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]


def inner(mark: str) -> dict[str, str]:
    """Environment for the first process of a family within the present one."""
    outer = os.environ.get(MARK)
    return {**os.environ, MARK: f"{outer}/{mark}" if outer else mark}


def end(mark: str, *, seconds: float = 10.0) -> list[int]:
    """Kill a family; returns who was alive. AssertionError if one survives SIGKILL for `seconds`."""
    first = left = members(mark)
    limit = time.monotonic() + seconds
    while left:
        assert time.monotonic() < limit, f"processes {left} survive SIGKILL"
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
        left = members(mark)
    return first
