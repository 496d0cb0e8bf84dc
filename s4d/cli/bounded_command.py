"""A command under a time limit; everything that it started ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

POLL_SECONDS = 0.01
GONE_SECONDS = 10.0
OUT_OF_TIME = "out of time"
KILLED = "killed"


def run_bounded(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    cwd: Path,
    limit: float,
    out: Path | None = None,
    kill_when: Callable[[], bool] | None = None,
    new_session: bool = False,
) -> int | str:
    """Exit status of a command, or why it got SIGKILL: after `limit` seconds, or as soon as `kill_when` says so.

    Both outputs go to `log`, or the standard one to `out`. The command gets a process group of its own; with
    `new_session` a session, which ends together with all process groups that were formed in it.
    """
    with log.open("wb") as said, open(out or os.devnull, "wb") as answered:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=answered if out else said,
            stderr=said,
            env={**environment},
            cwd=cwd,
            process_group=None if new_session else 0,
            start_new_session=new_session,
        )
    try:
        return _outcome(process, limit, kill_when)
    finally:
        kill_members(process.pid)
        process.wait()


def _outcome(process: subprocess.Popen[bytes], limit: float, kill_when: Callable[[], bool] | None) -> int | str:
    end = time.monotonic() + limit
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(POLL_SECONDS)
        if kill_when is not None and kill_when():
            return KILLED
        if time.monotonic() > end:
            return OUT_OF_TIME


def kill_members(leader: int) -> None:
    """SIGKILL to a process group or session until none of it runs; TimeoutError if some outlive that by ten seconds."""
    end = time.monotonic() + GONE_SECONDS
    while running := members(leader):
        if time.monotonic() > end:
            raise TimeoutError(f"processes {running} outlive SIGKILL")
        for process in running:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def members(leader: int) -> list[int]:
    """Running processes of the group or session of `leader`; one that ended and is not waited for yet is none."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # Behind the name, which may hold brackets of its own: state, parent, group, session.
            state, _, *belongs = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[:4]
            if str(leader) in belongs and state not in "ZX":
                found.append(int(process.name))
    return found


def source_environment() -> dict[str, str]:
    """The environment, with the source tree first among what Python imports: it may be installed nowhere."""
    root = os.fspath(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}
