"""A process per compilation: a compiler that aborts or hangs costs one row, not the report."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import IO, Any


@dataclass(frozen=True, slots=True)
class Broken:
    """Why an item has no result, in one line."""

    reason: str


@dataclass(slots=True)
class _Running:
    process: BaseProcess
    results: Connection
    output: IO[bytes]
    deadline: float


def run_forked(
    function: Callable[[Any], Any], items: Sequence[Any], *, processes: int, seconds: float = 300.0
) -> Iterator[tuple[int, Any]]:
    """Yield (index, ``function(item)`` or Broken) as they finish; ``function`` runs in a fork with its output hidden.

    Forking spares the import of torch for every item and lets items hold what cannot be pickled, such as kernels.
    """
    context = multiprocessing.get_context("fork")
    waiting = list(enumerate(items))[::-1]
    running: dict[int, _Running] = {}
    try:
        while waiting or running:
            while waiting and len(running) < max(1, processes):
                index, item = waiting.pop()
                receiver, sender = context.Pipe(duplex=False)
                output = tempfile.TemporaryFile()  # noqa: SIM115 (closed when its process has ended)
                process = context.Process(target=_child, args=(function, item, sender, output.fileno()), daemon=True)
                process.start()
                sender.close()
                running[index] = _Running(process, receiver, output, time.monotonic() + seconds)
            wait([entry.results for entry in running.values()], timeout=1.0)
            for index, entry in list(running.items()):
                result = _outcome(entry, seconds)
                if result is not None:
                    del running[index]
                    yield index, result
    finally:
        for entry in running.values():
            entry.process.kill()


def _child(function: Callable[[Any], Any], item: Any, sender: Connection, output: int) -> None:
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = sys.stderr = os.fdopen(output, "w", buffering=1, closefd=False)
    try:
        result = function(item)
    except Exception as error:
        lines = [line for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
        result = Broken(" ... ".join(dict.fromkeys([lines[0].strip(), lines[-1].strip()]))[:400])
    sender.send(result)
    sender.close()


def _outcome(entry: _Running, seconds: float) -> Any:
    """The result of a process that has one, or Broken; None while it works."""
    result = None
    if entry.results.poll():
        try:
            result = entry.results.recv()
        except EOFError:
            entry.process.join()
            result = Broken(f"the compiler ended with status {entry.process.exitcode}: {_last_line(entry.output)}")
    elif time.monotonic() > entry.deadline:
        entry.process.kill()
        result = Broken(f"no result after {seconds:.0f} s")
    if result is not None:
        entry.process.join()
        entry.results.close()
        entry.output.close()
    return result


def _last_line(output: IO[bytes]) -> str:
    output.seek(0)
    lines = output.read().decode(errors="replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")
