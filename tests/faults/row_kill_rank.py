"""R2: SIGKILL to one random rank, often within a save; the others leave by themselves, the same command goes on."""

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
    victim = -1
    while victim < 0:
        run_file = calm.new_run()
        trial = calm.start(form, run_file)
        victim = kill_one(trial, form, run_file.with_suffix(""), draw)
    run_dir = run_file.with_suffix("")
    trial.gone()
    status = trial.wait(10)
    hit = phase(run_dir)
    # A rank that has nothing left to say to the other one may well end its work.
    assert status or hit == "end", f"{hit}: {trial.out}\n{trial.err}"
    trial.close()
    calm.finish(form, run_file)
    return f"{form}: rank {victim}, {hit}"


def kill_one(trial: trials.Trial, form: str, run_dir: Path, draw: random.Random) -> int:
    """Kill a random rank at a random moment and return it; -1 if the run was done before."""
    trial.until(lambda: len(trial.ranks()) == 2)
    # Without a launcher nobody tells a rank at start that the other one will never come.
    if form == "pair":
        trial.until(lambda: trials.logged(run_dir) >= 1)
    ranks = sorted(trial.ranks().items())
    # None is left if the run was done meanwhile.
    if ranks:
        rank, pid = draw.choice(ranks)
        at_random(trial, run_dir, draw, calm.seconds(form))
        if trial.status() is None and trial.signal(signal.SIGKILL, pid):
            return rank
    assert trial.wait() == 0, trial.err
    trial.close()
    return -1
