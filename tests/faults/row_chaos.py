"""R20: a run that is hit again and again ends with the bits of a calm one; how much of its time was useful."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import trials
from calm import Calm

STEPS = 1200
ARGUMENTS = (f"engine.steps={STEPS}", "engine.save_every=20", "engine.keep_last=2")
BETWEEN_SECONDS = (5.0, 60.0)
FAULTS = ("kill all", "kill a rank", "SIGTERM to a rank", "SIGUSR1 to a rank")
calm: Calm


def prepare(folder: Path) -> None:
    """Start the server of the trials."""
    global calm
    calm = Calm(trials.Bench(folder), ARGUMENTS)


def run(number: int, folder: Path) -> tuple[str, float]:
    """One run with at least one fault; the value is the share of its time that a calm run would not have needed."""
    draw = random.Random(f"chaos {number}")
    useful = calm.seconds("pair")
    run_file = calm.new_run()
    began = time.monotonic()
    faults = 0
    while True:
        trial = calm.start("pair", run_file)
        if not faults:
            trial.until(lambda: trials.reached(run_file.with_suffix("")) > 0)
        end = time.monotonic() + draw.uniform(*BETWEEN_SECONDS) * (0.3 if not faults else 1.0)
        while time.monotonic() < end and trial.status() is None:
            time.sleep(0.05)
        if trial.status() is not None:
            assert trial.wait() == 0, trial.err
            trial.close()
            break
        strike(trial, draw)
        faults += 1
    seconds = time.monotonic() - began
    assert faults, "the run was over before anything happened to it"
    trials.assert_same(run_file.with_suffix(""), calm.result("pair"))
    calm.remove(run_file)
    return f"{faults} faults", max(0.0, 1 - useful / seconds)


def strike(trial: trials.Trial, draw: random.Random) -> None:
    """One fault, and the end of all processes."""
    fault = draw.choice(FAULTS)
    rank = draw.choice(sorted(trial.ranks().values()) or [trial.pid])
    if fault == "kill all":
        trial.kill()
    else:
        number = {"kill a rank": signal.SIGKILL, "SIGTERM to a rank": signal.SIGTERM}.get(fault, signal.SIGUSR1)
        trial.signal(number, rank)
    trial.gone(30.0)
    trial.close()
