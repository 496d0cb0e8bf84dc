"""A request to stop, from a signal or from the death of the launcher; it is only looked at between steps."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Set by SIGINT or SIGTERM to this process, or when the DeepSpeed launcher above it is gone.

    The single-node `deepspeed` command forwards no signal: killed, it would leave its ranks training on unseen.
    """

    def __init__(self) -> None:
        self._signalled = False
        self._launcher = _launcher_chain()

    def install(self) -> None:
        """Take over the signals of this process (main thread only)."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    @property
    def requested(self) -> bool:
        """True once a stop was asked for."""
        return self._signalled or any(_parent_of(child) != parent for child, parent in self._launcher)


def _launcher_chain() -> tuple[tuple[int, int], ...]:
    """(process, parent) pairs from this rank up to what started DeepSpeed's launcher; empty without it."""
    me, parent = os.getpid(), os.getppid()
    if "deepspeed.launcher.launch" not in _command_of(parent):
        return ()
    chain = [(me, parent)]
    # Above it: the `deepspeed` command; or, over pdsh, a session of sshd with or without a shell in between.
    while (above := _parent_of(parent)) is not None:
        command = _command_of(above)
        if "deepspeed" not in command and not command.startswith("sshd"):
            break
        chain.append((parent, above))
        if not command.startswith(("sh -c", "bash -c", "/bin/sh -c", "/bin/bash -c")):
            break
        parent = above
    return tuple(chain)


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _parent_of(pid: int) -> int | None:
    try:
        # The name field may hold spaces and brackets; the fields after its closing bracket do not.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None
