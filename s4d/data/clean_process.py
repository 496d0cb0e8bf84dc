"""Starts processes that may be lost, from a server that holds nothing of this process, and says how they ended.

That server never uses a GPU nor starts a thread, so that its children may do both.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from s4d.data.interrupts import held_back
from s4d.data.memory_limit import MEMORY_BYTES
from s4d.data.worker_process import OUT_OF_MEMORY

END_SECONDS = 5.0

CONTEXT = multiprocessing.get_context("forkserver")

# Processes may be started at the same time, by several threads.
_entry_lock = threading.Lock()


def start_process(target: Callable[..., None], *arguments: Any) -> Any:
    """A new process that runs `target`, and ends with this one at the latest."""
    CONTEXT.set_forkserver_preload(["s4d.data.worker_server"])
    process = CONTEXT.Process(target=target, args=arguments, daemon=True)
    with _without_entry_script(), held_back():
        process.start()
    return process


def kill(process: Any) -> None:
    """End a process; nothing it does has to be finished."""
    process.kill()
    # One that waits for a broken disk cannot even be killed.
    process.join(END_SECONDS)


def how_it_ended(status: int | None) -> str:
    """What the exit status of a process says about the file it was at work on."""
    if status == OUT_OF_MEMORY:
        return f"decoding needs more than {MEMORY_BYTES >> 20} MiB of memory"
    if status is not None and status < 0:
        return f"decoding ended the process ({signal.Signals(-status).name})"
    return f"decoding ended the process (status {status})"


@contextmanager
def _without_entry_script() -> Iterator[None]:
    """Keep new processes from importing the program's entry script, and with it everything that training needs."""
    with _entry_lock:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = script
