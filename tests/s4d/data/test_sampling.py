"""Frame rules on clips of every length, by hand for the released ones."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from s4d.data.counter import generator
from s4d.data.sampling import (
    FRAME_ORDERS,
    TRAIN_RULES,
    covering_window,
    release_test_window,
    repeated_frame,
    train_indices,
)

LENGTHS = [1, 2, 7, 15, 16, 17, 40, 61, 62, 64, 65, 100, 1000]


@pytest.mark.parametrize("rule", TRAIN_RULES)
@pytest.mark.parametrize("n", LENGTHS)
def test_every_rule_gives_ascending_frames_that_exist(rule: str, n: int) -> None:
    for draw in range(20):
        indices = train_indices(rule, n, 16, 4, generator(draw))
        assert len(indices) == 16
        assert list(indices) == sorted(indices)
        assert 0 <= indices[0] <= indices[-1] < n


def test_window_keeps_the_stride_and_reaches_both_ends_of_a_long_clip() -> None:
    draws = [train_indices("window", 70, 16, 4, generator(i)) for i in range(300)]
    assert {b - a for indices in draws for a, b in pairwise(indices)} == {4}
    assert {indices[0] for indices in draws} == set(range(10))
    assert max(indices[-1] for indices in draws) == 69


@pytest.mark.parametrize("n", [16, 17, 31, 40, 60])
def test_window_covers_a_short_clip_without_repeating_a_frame(n: int) -> None:
    for draw in range(20):
        indices = train_indices("window", n, 16, 4, generator(draw))
        gaps = np.diff(indices)
        assert len(set(indices)) == 16
        assert gaps.max() - gaps.min() <= 1
        assert indices[0] < n / 16
        assert indices[-1] >= n - 1 - n / 16


@pytest.mark.parametrize("n", [1, 3, 5, 15])
def test_window_spreads_a_clip_with_too_few_frames_evenly(n: int) -> None:
    counts = np.bincount(train_indices("window", n, 16, 4, generator(0)), minlength=n)
    assert counts.min() >= 16 // n
    assert counts.max() <= -(-16 // n)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (20, [0, 5, 10, 15, 19, *[19] * 11]),
        (3, [2] * 16),
        (64, [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]),
    ],
)
def test_released_rule_for_clips_up_to_the_span(n: int, expected: list[int]) -> None:
    assert list(train_indices("release", n, 16, 4, generator(0))) == expected


def test_released_rule_for_long_clips_takes_a_random_span() -> None:
    starts = set()
    for draw in range(200):
        indices = train_indices("release", 70, 16, 4, generator(draw))
        starts.add(indices[0])
        assert indices[-1] - indices[0] == 63
    assert starts == set(range(6))


def test_released_pretraining_rule_stops_before_the_end() -> None:
    assert list(train_indices("release_pretrain", 10, 6, 4, generator(0))) == [0, 4, 8, 8, 8, 8]
    starts = {train_indices("release_pretrain", 30, 6, 4, generator(i))[0] for i in range(200)}
    assert starts == set(range(7))


@pytest.mark.parametrize("n", [16, 33, 64, 65, 100, 128, 300, 1000])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_test_windows_cover_the_clip_and_differ(n: int, views: int) -> None:
    windows = [covering_window(n, 16, 4, view=view, views=views) for view in range(views)]
    assert min(map(min, windows)) <= n / 16
    assert max(map(max, windows)) >= n - 1 - n / 16
    widest = max(np.diff(sorted({index for window in windows for index in window})))
    assert widest <= max(4, -(-n // 16)) + 1
    if n >= 16 * views:
        assert len(set(windows)) == views


def test_released_test_windows_are_the_first_and_last_of_the_strided_list() -> None:
    first, last = (release_test_window(100, 16, 4, view=view, views=2) for view in range(2))
    assert list(first) == list(range(0, 64, 4))
    assert list(last) == list(range(36, 100, 4))
    assert list(release_test_window(9, 6, 4, view=1, views=2)) == [0, 4, 8, 8, 8, 8]


def test_repeated_frames_are_spread_over_the_clip() -> None:
    held = [repeated_frame(40, 16, view=view, views=4) for view in range(4)]
    assert held == [(5,) * 16, (15,) * 16, (25,) * 16, (35,) * 16]


def test_frame_orders() -> None:
    window = (3, 5, 7, 9, 11, 13)
    orders = {name: order(window, generator(4)) for name, order in FRAME_ORDERS.items()}
    assert orders["kept"] == window
    assert orders["reversed"] == (13, 11, 9, 7, 5, 3)
    assert orders["frozen"] == (9,) * 6
    assert sorted(orders["shuffled"]) == list(window) and orders["shuffled"] not in (window, window[::-1])


def test_an_empty_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        train_indices("window", 0, 16, 4, generator(0))
