from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

from engine.shared_memory import FOLDER, sweep_semaphores

LEAVE_ONE = (
    "import multiprocessing, os, signal; lock = multiprocessing.get_context('spawn').Lock(); "
    "print(lock._semlock.name, flush=True); os.killpg(0, signal.SIGKILL)"
)


def test_semaphore_of_a_killed_program_goes_and_those_in_use_stay() -> None:
    mine = multiprocessing.get_context("spawn").Lock()
    kept = "sem." + mine._semlock.name.lstrip("/")  # type: ignore[attr-defined]
    killed = subprocess.run([sys.executable, "-c", LEAVE_ONE], capture_output=True, text=True, start_new_session=True)
    left = "sem." + killed.stdout.strip().lstrip("/")
    assert (FOLDER / left).exists(), "a killed program leaves its semaphore; else there is nothing to sweep"
    os.utime(FOLDER / left, (0, 0))
    os.utime(FOLDER / kept, (0, 0))
    swept = sweep_semaphores()
    assert left in swept and kept not in swept
    assert (FOLDER / kept).exists() and not (FOLDER / left).exists()


def test_young_semaphores_are_spared() -> None:
    killed = subprocess.run([sys.executable, "-c", LEAVE_ONE], capture_output=True, text=True, start_new_session=True)
    left = FOLDER / ("sem." + killed.stdout.strip().lstrip("/"))
    assert left.name not in sweep_semaphores()
    left.unlink()
