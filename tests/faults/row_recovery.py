"""R21: seconds from the SIGKILL of a whole run to its next new step, the same command being given at once."""

from __future__ import annotations

import random
import time
from pathlib import Path

import trials
from calm import STEPS, Calm

FORM = "launched"
calm: Calm


def prepare(folder: Path) -> None:
    """Start the server of the trials."""
    global calm
    calm = Calm(trials.Bench(folder))


def run(number: int, folder: Path) -> tuple[str, float]:
    """Kill two launched ranks, measure until a step is logged that had not been."""
    return "recovered", recover(calm, FORM, number)


def recover(calm: Calm, form: str, number: int) -> float:
    """Seconds from the kill to the next new step."""
    draw = random.Random(f"recovery {number}")
    run_file = calm.new_run()
    run_dir = run_file.with_suffix("")
    first = calm.start(form, run_file)
    last = draw.randint(1, STEPS - 4)
    first.until(lambda: trials.reached(run_dir) >= last)
    began = time.monotonic()
    first.kill()
    before = trials.reached(run_dir)
    again = calm.start(form, run_file)
    again.until(lambda: trials.reached(run_dir) > before)
    seconds = time.monotonic() - began
    assert again.wait() == 0, again.err
    first.close()
    again.close()
    trials.assert_same(run_dir, calm.result(form))
    calm.remove(run_file)
    return seconds
