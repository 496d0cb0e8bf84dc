"""Worker processes that may die: a decoder that crashes, hangs or eats memory costs its file, not the scan."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from s4d.data.interrupts import held_back

Task = TypeVar("Task")
Result = TypeVar("Result")

# Address space that a worker may take beyond what it starts with; the largest allowed picture needs 0.8 GB.
MEMORY_BYTES = 3 << 30
# A new process may need long on a busy machine; a task's own time counts from when its worker is there.
START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Lost:
    """A task whose worker died or was stopped, and why."""

    reason: str


@dataclass(slots=True)
class _Worker(Generic[Task]):
    process: BaseProcess
    connection: Connection
    is_there: bool = False
    task: Task | None = None
    seconds: float = 0.0
    deadline: float = 0.0


def run_tasks(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int, seconds: Callable[[Task], float]
) -> Iterator[tuple[Task, Result | Lost]]:
    """Results of `function` in the order they come; `seconds` limits each task. One task per worker is under way.

    `function` must be picklable; an exception in it ends its worker. RuntimeError where a worker cannot start: that is
    no task's fault.
    """
    waiting = iter(tasks)
    crew: list[_Worker[Task]] = []
    try:
        while True:
            while len(crew) < workers or any(worker.task is None for worker in crew):
                task = next(waiting, None)
                if task is None:
                    break
                idle = next((worker for worker in crew if worker.task is None), None)
                if idle is None:
                    idle = _start(function)
                    crew.append(idle)
                idle.task, idle.seconds = task, seconds(task)
                idle.deadline = time.monotonic() + (idle.seconds if idle.is_there else START_SECONDS)
                with contextlib.suppress(OSError):  # a dead worker is found below
                    idle.connection.send(task)
            busy = [worker for worker in crew if worker.task is not None]
            if not busy:
                return
            rest = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
            ready = set(wait([worker.connection for worker in busy], timeout=rest))
            for worker in busy:
                finished = _finished(worker, worker.connection in ready)
                if not finished:
                    continue
                task, worker.task = worker.task, None
                assert task is not None
                if isinstance(finished[0], Lost):
                    crew.remove(worker)
                yield task, finished[0]
    finally:
        for worker in crew:
            _stop(worker)


def _finished(worker: _Worker[Task], is_ready: bool) -> tuple[Result | Lost] | None:
    """What came of a worker's task; nothing while it goes on."""
    if is_ready:
        try:
            result: Result = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join(5.0)
            code = worker.process.exitcode
            _stop(worker)
            if not worker.is_there:
                raise RuntimeError(f"a decoding process ended before its first task ({_signal_name(code)})") from None
            return (Lost(f"the decoder crashed ({_signal_name(code)})"),)
        if worker.is_there:
            return (result,)
        worker.is_there, worker.deadline = True, time.monotonic() + worker.seconds
        return None
    if time.monotonic() >= worker.deadline:
        _stop(worker)
        if not worker.is_there:
            raise RuntimeError(f"a decoding process did not start within {START_SECONDS:g} s")
        return (Lost("the decoder took too long and was stopped"),)
    return None


def _signal_name(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit status {code}"


def _start(function: Callable[[Task], object]) -> _Worker[Task]:
    # Spawned, not forked: the caller may hold threads (torch, a progress bar) that a fork would copy locked.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function), daemon=True)
    with held_back():
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _stop(worker: _Worker[Task]) -> None:
    worker.connection.close()
    worker.process.kill()
    worker.process.join()


def _serve(connection: Connection, function: Callable[[Task], object]) -> None:
    """Answer tasks until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_memory()
    with contextlib.suppress(EOFError, OSError):
        connection.send(None)
        while True:
            connection.send(function(connection.recv()))


def _limit_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as stream:
        used = int(stream.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = used + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
