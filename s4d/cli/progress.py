"""How far long work is: a bar on a terminal, now and then a line in a log; both on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_SECONDS = 30.0


@contextmanager
def show_progress(verb: str) -> Iterator[Callable[[int, int], None]]:
    """A function to call with the number of things done and of all; `verb` says what was done to them."""
    if not sys.stderr.isatty():
        yield _Lines(verb)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(verb, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS:
            sys.stderr.write(f"{self._verb} {done} of {total}\n")
            sys.stderr.flush()
            self._last = now
