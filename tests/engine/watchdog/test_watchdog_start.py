"""A real rank under its watchdog: the limits of its process groups, and what it does when the watchdog is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def test_every_group_has_a_limit_and_no_rank_trains_on_unwatched(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "watched_rank.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "PYTHONWARNINGS": "ignore"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert len(told["early"]) >= 2
        assert set(told["early"]) == {5000.0 + 60} and set(told["late"]) == {700.0 + 60}
        os.kill(told["watchdog"], signal.SIGKILL)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 4 and said.count("its watchdog is gone") == 1
    finally:
        process.kill()
        process.wait()
