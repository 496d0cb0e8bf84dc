"""A request to stop, from a signal or from the death of the launcher; it is only looked at between steps.

Only the standard library is needed here: signals are noted before the long imports of a run begin.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from engine.errors import EXIT_SAVED, EngineError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# A queue and the launcher may both forward one request: what follows so soon is no second one.
REPEAT_SECONDS = 5.0
# Between a request and its end, a rank that waits for others to join gives them so long.
JOIN_SECONDS = 10.0
POLL_SECONDS = 0.25


class StoppedAtOnceError(EngineError):
    """Stopped by a second signal, without a checkpoint of the last steps; 128 + the signal is the exit status."""

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by a second {name}; the same command continues from the last checkpoint")
        self.exit_code = 128 + number


class StopRequest:
    """Set by SIGINT, SIGTERM or SIGUSR1 to this process, or when the DeepSpeed launcher above it is gone.

    The single-node `deepspeed` command forwards no signal: killed, it would leave its ranks training on unseen. A
    signal more than a few seconds after the first one ends the run where it is, once the checkpoint that is being
    written is whole.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._at_once = False
        self._noted = -1
        self._launcher: tuple[tuple[int, int], ...] = ()

    def install(self) -> None:
        """Take over the signals of this process (main thread only) and note the launcher, as early as can be."""
        # Readable as soon as a signal comes, while `_note` has to wait for calls into C to return.
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._noted = read
        for number in SIGNALS:
            signal.signal(number, self._note)
        self._launcher = _launcher_chain()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._first is None:
            self._first = time.monotonic()
        elif time.monotonic() - self._first > REPEAT_SECONDS and not self._at_once:
            self._at_once = True
            raise StoppedAtOnceError(number)

    @property
    def requested(self) -> bool:
        """True once a stop was asked for."""
        return self._first is not None or any(_parent_of(child) != parent for child, parent in self._launcher)

    @contextmanager
    def heeded_while_joining(self) -> Iterator[None]:
        """End this process some seconds after a request, if it still waits for other ranks by then.

        Those may have been killed, and the wait is a call into C that lasts half an hour and ends for no signal.
        Nothing has begun that would have to be saved.
        """
        joined = threading.Event()
        threading.Thread(target=self._leave_unless, args=(joined,), name="stop while joining", daemon=True).start()
        try:
            yield
        finally:
            joined.set()

    def _leave_unless(self, joined: threading.Event) -> None:
        asked: float | None = None
        while not joined.wait(POLL_SECONDS):
            if asked is None and (self.requested or self._signalled()):
                asked = time.monotonic()
            if asked is not None and time.monotonic() - asked > JOIN_SECONDS:
                print("stopped before all ranks had joined", file=sys.stderr, flush=True)
                os._exit(EXIT_SAVED)

    def _signalled(self) -> bool:
        try:
            return not set(SIGNALS).isdisjoint(os.read(self._noted, 64))
        except OSError:
            return False


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


stop = StopRequest()
