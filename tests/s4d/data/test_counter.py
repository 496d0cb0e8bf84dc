"""Keys and generators are functions of what is named, and of nothing else."""

from __future__ import annotations

import subprocess
import sys

from s4d.data.counter import generator, stable_key


def test_equal_names_draw_equal_numbers_in_another_process() -> None:
    code = "from s4d.data.counter import *; print(stable_key(1, 'a', 2), generator(1, 'a').integers(1 << 60))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.split() == [str(stable_key(1, "a", 2)), str(generator(1, "a").integers(1 << 60))]


def test_different_names_draw_different_numbers() -> None:
    keys = [stable_key(*parts) for parts in ((1, "a"), ("1", "a"), ("a", 1), ("1a",), (1, "a", ""), (2, "a"))]
    assert len(set(keys)) == len(keys)


def test_keys_fit_int64_and_are_spread() -> None:
    keys = [stable_key("k", i) for i in range(2000)]
    assert all(0 <= key < 1 << 63 for key in keys)
    assert 900 < sum(key >> 62 for key in keys) < 1100
