"""Ctrl-C reaches the processes that decode at no moment, not even while they start."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from s4d.data.clean_process import kill, start_process
from s4d.data.interrupts import held_back
from s4d.data.scan import pool


def blocked(pid: int) -> bool:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(fields["SigBlk"], 16) >> (signal.SIGINT - 1) & 1)


def test_processes_start_with_it_blocked() -> None:
    process = start_process(time.sleep, 60)
    worker = pool._start(len)
    assert blocked(process.pid) and blocked(worker.process.pid)
    assert not blocked(os.getpid())
    kill(process)
    pool._stop(worker)


def in_this_thread() -> None:
    signal.raise_signal(signal.SIGINT)


def in_another_thread() -> None:
    def take() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()


@pytest.mark.parametrize("interrupt", [in_this_thread, in_another_thread])
def test_one_that_came_meanwhile_is_not_lost(interrupt: Callable[[], None]) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with held_back():
            interrupt()
            assert not seen
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
