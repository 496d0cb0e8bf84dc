"""Starting the ranks of a measurement on this machine, each on cores of its own while there are enough."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from s4d.errors import DataError

POLL_SECONDS = 0.1


def available_cores() -> tuple[int, ...]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def share_cores(ranks: int, each: int, cores: Sequence[int]) -> list[tuple[int, ...]]:
    """`each` of `cores` for every rank: disjoint while they last, from the first one on again after that."""
    return [tuple(cores[(rank * each + place) % len(cores)] for place in range(each)) for rank in range(ranks)]


def run_ranks(
    command: Sequence[str],
    ranks: int,
    *,
    limit: float,
    threads: int = 1,
    cores: Sequence[Sequence[int]] | None = None,
    on_gpu: bool = False,
    log: IO[bytes] | None = None,
) -> None:
    """Run `command` as the ranks of one launch, with `threads` each; DataError if one fails or `limit` seconds pass.

    `cores` has the cores of every rank; None leaves them unbound. What the ranks print goes to `log`, if there is one.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        **({} if on_gpu else {"DS_ACCELERATOR": "cpu"}),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONWARNINGS": "ignore",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
        "LOCAL_SIZE": str(ranks),
    }
    started: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(ranks):
            own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append(_start(command, own, cores[rank] if cores is not None else None, log))
        _wait_for(started, limit)
    finally:
        for process in started:
            process.kill()
            process.wait()


def _start(
    command: Sequence[str], environment: Mapping[str, str], cores: Sequence[int] | None, log: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    with bound_to(cores):
        return subprocess.Popen(command, env=environment, stdout=log, stderr=None if log is None else subprocess.STDOUT)


@contextmanager
def bound_to(cores: Sequence[int] | None) -> Iterator[None]:
    """Bind this thread to some cores meanwhile, which a process started from it inherits before its first thread."""
    if cores is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _wait_for(ranks: Sequence[subprocess.Popen[bytes]], limit: float) -> None:
    end = time.monotonic() + limit
    while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
        if time.monotonic() > end:
            raise DataError(f"{len(ranks)} ranks took more than {limit:g} s")
        time.sleep(POLL_SECONDS)
    failed = [f"rank {number} ended with status {rank.poll()}" for number, rank in enumerate(ranks) if rank.poll()]
    if failed:
        raise DataError(", ".join(failed))
