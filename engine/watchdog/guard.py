"""The thread in each rank that obeys the node's watchdog, misses it, and keeps the limits of collectives up to date."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from datetime import timedelta
from typing import NoReturn

from torch.distributed import distributed_c10d

from engine.failure import PEER_LOST
from engine.watchdog.heartbeat import Board, pulse
from engine.watchdog.phases import Limits

POLL_SECONDS = 0.25
START_SECONDS = 60.0
# The watchdog comes first, since it can say who hangs; the groups' own limits are for when it fails.
MARGIN_SECONDS = 60.0


class Guard:
    """Runs beside the training of one rank; `speaks` on one rank of a node."""

    def __init__(self, board: Board, limits: Limits, *, host: str, speaks: bool) -> None:
        self._board = board
        self._limits = limits
        self._host = host
        self._speaks = speaks
        self._applied: tuple[int, float] | None = None

    def start(self) -> None:
        """Begin; the thread ends with the process."""
        threading.Thread(target=self._run, name="watchdog guard", daemon=True).start()

    def _run(self) -> None:
        watchdog = self._find_watchdog()
        while True:
            self._limit_collectives()
            gone, _, _ = select.select([watchdog], [], [], POLL_SECONDS)
            if self._board.ordered_to_leave:
                _leave()
            if gone:
                self._miss_watchdog()

    def _find_watchdog(self) -> int:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            pid, _ = self._board.watchdog
            if pid:
                try:
                    return os.pidfd_open(pid)
                except ProcessLookupError:
                    break
            time.sleep(POLL_SECONDS)
        self._miss_watchdog()

    def _miss_watchdog(self) -> NoReturn:
        if self._speaks:
            print(
                f"error: node {self._host}: its watchdog is gone, and with it the guard against hanging",
                file=sys.stderr,
                flush=True,
            )
        _leave()

    def _limit_collectives(self) -> None:
        """Set the timeout of all process groups, those that DeepSpeed made without one included: long at the start."""
        first = pulse.first_step
        seconds = max(self._limits.start, self._limits.longest) if first else self._limits.longest
        groups = list(distributed_c10d._world.pg_map)
        if self._applied != (len(groups), seconds):
            for group in groups:
                distributed_c10d._set_pg_timeout(timedelta(seconds=seconds + MARGIN_SECONDS), group)
            self._applied = (len(groups), seconds)


def _leave() -> NoReturn:
    # The main thread may hang; nothing it has begun is published.
    os._exit(PEER_LOST)
