"""Results of a dataset in order, computed here or ahead of time in worker processes that may be lost.

A file can end the process that decodes it (a fault of a decoder, too little memory) or keep it busy for ever. Each
process notes the file it is at work on; one that dies or is stuck is replaced and its items are computed again. A file
that has cost two processes is refused from then on with a DataError, so the dataset handles it like any unreadable one.
"""

from __future__ import annotations

import logging
import pickle
import socket
import time
import weakref
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any, Protocol, TypeVar

from s4d.data import handover
from s4d.data.clean_process import CONTEXT, END_SECONDS, how_it_ended, kill, start_process
from s4d.data.current_file import NOTE_BYTES, read_note
from s4d.data.worker_process import Broken, Failed, serve
from s4d.errors import DataError

logger = logging.getLogger(__name__)

PREFETCH = 3
# From the opening of a file to its last wanted frame. Only time in which this process waits for a result counts: it may
# be stopped or suspended together with its workers.
SECONDS_PER_FILE = 30.0
POLL_SECONDS = 0.25
TRIES = 2

Item = TypeVar("Item", covariant=True)
Value = TypeVar("Value")


class Indexed(Protocol[Item]):
    """Anything that computes item `index`, in whatever process."""

    def __getitem__(self, index: int) -> Item: ...


def in_order(items: Indexed[Value], indices: Sequence[int], workers: int) -> Generator[Value, None, None]:
    """`items[i]` for each of `indices`, computed by `workers` processes that end with this iterator or this process."""
    if workers == 0:
        return (items[index] for index in indices)
    pool = _Pool(items, indices, workers)
    stream = _results(pool, len(indices))
    # Workers outlast a SIGTERM, also the one that Python sends at exit to those of an iterator nobody closed.
    weakref.finalize(stream, pool.close)
    return stream


def _results(pool: _Pool, count: int) -> Generator[Any, None, None]:
    try:
        for place in range(count):
            value = pool.take(place)
            if isinstance(value, Failed):
                raise value.error(value.message)
            if isinstance(value, Broken):
                raise RuntimeError(f"in a decoding process:\n{value.text}")
            yield value
    finally:
        # Ends the workers here and now, not when the garbage collector comes to what a traceback refers to.
        pool.close()


class _Worker:
    """One process, the places in the sequence that it has yet to answer, and how long it is at its present file."""

    def __init__(self) -> None:
        self.process: Any = None
        self.connection: Any = None
        self.note: Any = None
        self.tasks: list[int] = []
        self.noted = 0
        self.seconds = 0.0
        self.told = 0

    def end(self) -> None:
        """Kill the process; nothing it does has to be finished."""
        if self.process is not None:
            kill(self.process)
            self.connection.close()
            self.process = None


class _Pool:
    """Computes items ahead of the place asked for."""

    def __init__(self, items: Any, indices: Sequence[int], workers: int) -> None:
        self.items = items
        self.indices = indices
        self.workers = [_Worker() for _ in range(workers)]
        handover.raise_open_files()
        self.answers: dict[int, Any] = {}
        self.submitted = 0
        self.losses: Counter[tuple[int, str]] = Counter()
        self.refused: dict[str, str] = {}
        self._submit(0)

    def take(self, place: int) -> Any:
        """The answer for a place in the sequence; DataError where processes die of it and no file is to blame."""
        self._receive(0.0)
        while place not in self.answers:
            self._receive(POLL_SECONDS)
        self._submit(place + 1)
        return self.answers.pop(place)

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.end()

    def _submit(self, place: int) -> None:
        """Keep a fixed number of items under way, so that memory is bounded and nobody idles."""
        last = min(len(self.indices), place + PREFETCH * len(self.workers))
        while self.submitted < last:
            worker = min(self.workers, key=lambda worker: len(worker.tasks))
            worker.tasks.append(self.submitted)
            if worker.process is None:
                self._start(worker)
            else:
                self._send(worker, self.submitted)
            self.submitted += 1

    def _start(self, worker: _Worker) -> None:
        """A new process for the tasks of a worker."""
        worker.connection, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        worker.note = CONTEXT.RawArray("B", NOTE_BYTES)
        worker.noted, worker.seconds, worker.told = 0, 0.0, len(self.refused)
        with other:
            worker.process = start_process(serve, other, worker.note, self.items, dict(self.refused))
        for place in worker.tasks:
            self._send(worker, place)

    def _send(self, worker: _Worker, place: int) -> None:
        news = dict(list(self.refused.items())[worker.told :])
        worker.told = len(self.refused)
        # Where the process has died, receiving finds out and starts another one with all its tasks.
        with suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send(pickle.dumps((place, self.indices[place], news)))

    def _receive(self, seconds: float) -> None:
        """Wait for one answer, receive what is there, and replace workers that died or are stuck."""
        began = time.monotonic()
        busy = [worker for worker in self.workers if worker.tasks]
        ready = set(wait([worker.connection for worker in busy], seconds))
        waited = min(time.monotonic() - began, 2 * seconds)
        for worker in busy:
            if worker.connection in ready:
                answer = handover.receive(worker.connection)
                if answer is None:
                    worker.process.join(END_SECONDS)
                    self._replace(worker, how_it_ended(worker.process.exitcode))
                else:
                    worker.tasks.remove(answer[0])
                    self.answers[answer[0]] = answer[1]
            elif self._is_stuck(worker, waited):
                self._replace(worker, f"decoding took more than {SECONDS_PER_FILE:g} s")

    def _is_stuck(self, worker: _Worker, waited: float) -> bool:
        count, file = read_note(worker.note)
        worker.seconds = worker.seconds + waited if file and count == worker.noted else 0.0
        worker.noted = count
        return worker.seconds > SECONDS_PER_FILE

    def _replace(self, worker: _Worker, reason: str) -> None:
        """Start a new process for the tasks of one that is lost, without the file that was its end if that is known."""
        worker.end()
        file = read_note(worker.note)[1]
        place = worker.tasks[0]
        what = file or f"item {self.indices[place]}"
        # By place: in a long run a file may be the victim of others more than once.
        self.losses[place, file] += 1
        if self.losses[place, file] < TRIES:
            logger.warning("%s: %s; trying once more in a new process", what, reason)
        elif file:
            self.refused[file] = reason
        else:
            raise DataError(f"data.workers: a decoding process died (out of memory?): {what}: {reason}")
        self._start(worker)
