"""A stage in a thread: results in order, few ahead, errors where they belong, an end when its taker ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from s4d.data.staging import staged
from s4d.errors import DataError


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Numbers:
    """Counts from 0; `closed` tells whether whoever took from it has ended it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.given = 0
        self.closed = False

    def stream(self) -> Iterator[int]:
        try:
            while self.given < self.count:
                self.given += 1
                yield self.given - 1
            if self.count == 3:
                raise DataError("three.csv: too few")
        finally:
            self.closed = True


def stages() -> int:
    return sum(thread.name == "s4d-stage" for thread in threading.enumerate())


def test_results_come_in_order_from_another_thread() -> None:
    numbers = Numbers(20)
    results = list(staged(numbers.stream(), lambda number: (number, threading.get_ident())))
    assert [number for number, _ in results] == list(range(20))
    assert {thread for _, thread in results}.isdisjoint({threading.get_ident()})
    assert numbers.closed


def test_it_runs_a_bounded_number_of_results_ahead() -> None:
    numbers = Numbers(100)
    stream = staged(numbers.stream(), lambda number: number, ahead=2)
    assert next(stream) == 0
    # Two wait in the queue, one more is ready to follow.
    wait_until(lambda: numbers.given == 4)
    time.sleep(0.3)
    assert numbers.given == 4
    stream.close()


@pytest.mark.parametrize("in_work", [False, True])
def test_an_error_comes_after_the_results_before_it(in_work: bool) -> None:
    def work(number: int) -> int:
        if in_work and number == 3:
            raise DataError("three.csv: too few")
        return number

    numbers = Numbers(10 if in_work else 3)
    stream = staged(numbers.stream(), work)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match=r"^three\.csv: too few$"):
        next(stream)
    assert numbers.closed


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_closing_ends_the_thread_and_the_stage_before(taken: int) -> None:
    before = stages()
    numbers = Numbers(100)
    stream = staged(numbers.stream(), lambda number: number)
    for _ in range(taken):
        next(stream)
    stream.close()
    if taken == 0:
        # A stream nobody has taken from has nothing to clean up in, but ends with whoever holds it.
        del stream
    wait_until(lambda: numbers.closed and stages() == before)


def test_a_forgotten_stream_ends() -> None:
    before = stages()
    numbers = Numbers(100)
    stream = staged(numbers.stream(), lambda number: number)
    next(stream)
    del stream
    wait_until(lambda: numbers.closed and stages() == before)
