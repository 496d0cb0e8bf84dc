"""R2: SIGKILL to one random rank, half of the time within a save; the others leave by themselves, the same command goes on."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import trials
from calm import Calm, at_random, phase

calm: Calm


def prepare(folder: Path) -> None:
    """Start the server of the trials."""
    global calm
    calm = Calm(trials.Bench(folder))


def run(number: int, folder: Path) -> str:
    """One run of two ranks that loses one of them; the outcome is what it was at."""
    draw = random.Random(f"kill one {number}")
    form = "launched" if number % 5 == 4 else "pair"
    while True:
        run_file = calm.new_run()
        run_dir = run_file.with_suffix("")
        trial = calm.start(form, run_file)
        trial.until(lambda: len(trial.ranks()) == 2)
        # Without a launcher nobody tells a rank at start that the other one will never come.
        if form == "pair":
            trial.until(lambda: trials.logged(run_dir) >= 1)
        victim = draw.choice(sorted(trial.ranks().items()))
        at_random(trial, run_dir, draw, calm.seconds(form))
        if trial.status() is None and trial.signal(signal.SIGKILL, victim[1]):
            break
        assert trial.wait() == 0
        trial.close()
    trial.gone()
    status = trial.wait(10)
    hit = phase(run_dir)
    # A rank that has nothing left to say to the other one may well end its work.
    assert status or hit == "end", f"{hit}: {trial.out}\n{trial.err}"
    trial.close()
    calm.finish(form, run_file)
    return f"{form}: rank {victim[0]}, {hit}"
