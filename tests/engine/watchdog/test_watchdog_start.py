"""A real rank under its watchdog: limits of its process groups, what each does without the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "watched_rank.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "PYTHONWARNINGS": "ignore"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process, json.loads(process.stdout.readline())
    process.kill()
    process.communicate()


def is_gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not Path(f"/proc/{pid}").exists()


def test_every_group_has_a_limit_and_all_end_together(rank: tuple[subprocess.Popen[str], dict[str, Any]]) -> None:
    process, told = rank
    assert len(told["early"]) >= 2
    assert set(told["early"]) == {5000.0 + 60} and set(told["late"]) == {700.0 + 60}
    _, said = process.communicate("\n", timeout=30)
    assert process.returncode == 0 and said == ""
    assert is_gone(told["watchdog"])


def test_a_rank_does_not_train_on_unwatched(rank: tuple[subprocess.Popen[str], dict[str, Any]]) -> None:
    process, told = rank
    os.kill(told["watchdog"], signal.SIGKILL)
    assert process.wait(10) == 4
    assert process.stderr is not None
    assert process.stderr.read().count("its watchdog is gone") == 1
