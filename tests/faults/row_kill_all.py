"""R1: SIGKILL to everything of a run at random moments of its life; the same command continues it to the same bits."""

from __future__ import annotations

import random
from pathlib import Path

import trials
from calm import SAVE_EVERY, Calm, at_random, phase

calm: Calm


def prepare(folder: Path) -> None:
    """Start the server of the trials."""
    global calm
    calm = Calm(trials.Bench(folder))


def run(number: int, folder: Path) -> str:
    """One run that is killed once, or twice in a row; the outcome is what the first kill hit."""
    draw = random.Random(f"kill all {number}")
    form = "launched" if number % 10 == 9 else "pair" if number % 10 in (3, 7) else "forked"
    hit = ""
    while not hit:
        run_file = calm.new_run()
        hit = kill(form, run_file, draw)
    if draw.random() < 0.5:
        kill(form, run_file, draw)
    calm.finish(form, run_file)
    return f"{form}: {hit}"


def kill(form: str, run_file: Path, draw: random.Random) -> str:
    """Start or continue the run and kill it at a random moment; what it was at, empty if it was done before."""
    run_dir = run_file.with_suffix("")
    before = trials.saved_step(run_dir)
    seconds = calm.seconds(form)
    trial = calm.start(form, run_file)
    at_random(trial, run_dir, draw, seconds)
    alive = trial.kill()
    status = trial.wait(10)
    assert alive or status == 0, f"ended by itself with {status}: {trial.err}"
    trial.close()
    saved, reached = trials.saved_step(run_dir), trials.reached(run_dir)
    # A save waits for the one before, but only after its own step was logged.
    assert before <= saved and reached - saved <= 2 * SAVE_EVERY, f"step {reached} was reached, step {saved} is saved"
    return phase(run_dir) if alive and status else ""
