"""A stage of the input pipeline in a thread of the training process, a bounded number of results ahead of the step."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

AHEAD = 2
POLL_SECONDS = 0.05

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Ended:
    """The last thing a thread has to say: how it ended."""

    error: BaseException | None


def staged(
    items: Generator[Item, None, None], work: Callable[[Item], Result], ahead: int = AHEAD
) -> Generator[Result, None, None]:
    """`work(item)` of each item in order, computed by a thread at most `ahead` results in front of the taker.

    Closing it ends the thread and closes `items`; an error in either is raised where its result would have come.
    """
    stage = _Stage(items, work, ahead)
    results = _results(stage)
    weakref.finalize(results, stage.close)
    return results


def _results(stage: _Stage) -> Generator[Any, None, None]:
    try:
        while True:
            result = stage.results.get()
            if isinstance(result, _Ended):
                if result.error is not None:
                    raise result.error
                return
            yield result
    finally:
        stage.close()


class _Stage:
    def __init__(self, items: Any, work: Callable[[Any], Any], ahead: int) -> None:
        self.results: queue.Queue[Any] = queue.Queue(ahead)
        self._items = items
        self._work = work
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="s4d-stage", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, and with it the stage before it."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                if self._stop.is_set() or not self._hand_over(self._work(item)):
                    break
        except BaseException as caught:
            error = caught
        finally:
            self._items.close()
        self._hand_over(_Ended(error))

    def _hand_over(self, result: object) -> bool:
        """Put a result where it is taken from; False where nobody will."""
        while not self._stop.is_set():
            try:
                self.results.put(result, timeout=POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False
