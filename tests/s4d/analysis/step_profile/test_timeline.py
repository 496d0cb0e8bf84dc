"""Time is divided once: every instant of a window goes to one label, and together they are the window."""

from __future__ import annotations

import random

import pytest

from s4d.analysis.step_profile.attribution import Label
from s4d.analysis.step_profile.result import duration, fitted, split
from s4d.analysis.step_profile.timeline import IDLE, Interval, Window, divide
from s4d.analysis.step_work import PARTS

FORWARD, BACKWARD = Label("embed", "forward"), Label("embed", "backward")


def test_the_innermost_counts_and_the_rest_is_idle() -> None:
    found = divide(
        [Interval(0, 10, FORWARD, 0), Interval(2, 4, BACKWARD, 1), Interval(3, 12, Label("moae", "forward"), 0)],
        Window(0, 20),
    )
    assert found == {FORWARD: 8, BACKWARD: 2, Label("moae", "forward"): 2, IDLE: 8}


def test_only_the_window_counts() -> None:
    assert divide([Interval(-5, 3, FORWARD, 0), Interval(9, 30, BACKWARD, 0)], Window(0, 10)) == {
        FORWARD: 3,
        IDLE: 6,
        BACKWARD: 1,
    }


@pytest.mark.parametrize("seed", range(20))
def test_all_labels_are_the_window(seed: int) -> None:
    rng = random.Random(seed)
    labels = [Label(part, "forward") for part in PARTS]
    intervals = [
        Interval(start, start + rng.random() * 3, rng.choice(labels), rng.randrange(4))
        for start in (rng.random() * 12 - 1 for _ in range(40))
    ]
    found = divide(intervals, Window(0, 10))
    assert sum(found.values()) == pytest.approx(10, abs=1e-12)
    alone = divide([item for item in intervals if item.rank == 3], Window(0, 10))
    for label, seconds in alone.items():
        if label != IDLE:
            assert found[label] >= seconds - 1e-12, "nothing hides what has the highest rank"


def test_a_slower_profiled_step_shrinks_evenly_on_a_cpu() -> None:
    times = fitted({FORWARD: 3.0, IDLE: 1.0}, 2.0, on_gpu=False)
    assert times == {FORWARD: 1.5, IDLE: 0.5}


def test_kernels_keep_their_time_on_a_gpu_and_waiting_gives_way() -> None:
    assert fitted({FORWARD: 3.0, IDLE: 5.0}, 4.0, on_gpu=True) == {FORWARD: 3.0, IDLE: 1.0}
    assert fitted({FORWARD: 3.0, IDLE: 1.0}, 2.0, on_gpu=True) == {FORWARD: 1.5, IDLE: 0.5}


def test_the_split_has_the_whole_backward_as_one() -> None:
    found = split({FORWARD: 1.0, BACKWARD: 2.0, Label("backward", "backward"): 0.5, IDLE: 0.25})
    assert (found["embed"], found["backward"], found["idle"], found["moae"]) == (1.0, 2.5, 0.25, 0.0)
    assert sum(found.values()) == 3.75


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.1, "3.1 s"), (0.9996, "1 s"), (0.0123, "12.3 ms"), (0.12345, "123 ms"), (4.2e-6, "4.2 us"), (0, "0")],
)
def test_durations_have_three_digits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
