"""R18: SIGTERM or SIGUSR1 to a rank, launcher or head at a random moment: one checkpoint, soon, nothing lost."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import trials
from calm import Calm, at_random, phase

from engine.errors import EXIT_SAVED

EXIT_SECONDS = 25.0
calm: Calm


def prepare(folder: Path) -> None:
    """Start the server of the trials."""
    global calm
    calm = Calm(trials.Bench(folder))


def run(number: int, folder: Path) -> tuple[str, float]:
    """One run that is asked to stop; the outcome is whom and when, the value the seconds until all were gone."""
    draw = random.Random(f"stop {number}")
    form = "launched" if number % 5 == 4 else "pair"
    seconds = 0.0
    while not seconds:
        run_file = calm.new_run()
        target, hit, seconds = stop(form, run_file, draw)
    calm.finish(form, run_file)
    return f"{form}: {target}, {hit}", seconds


def stop(form: str, run_file: Path, draw: random.Random) -> tuple[str, str, float]:
    """Whom the signal went to, when, and how long the run took to end; 0 seconds if it was done before."""
    run_dir = run_file.with_suffix("")
    trial = calm.start(form, run_file)
    trial.until(lambda: len(trial.ranks()) == 2)
    whom: dict[str, int | None] = {f"rank {rank}": pid for rank, pid in trial.ranks().items()}
    if form == "launched":
        whom |= {"launcher": trial.launcher(), "head": trial.pid}
    target = draw.choice(sorted(whom))
    at_random(trial, run_dir, draw, calm.seconds(form))
    hit = phase(run_dir)
    if trial.status() is not None or not trial.signal(draw.choice((signal.SIGTERM, signal.SIGUSR1)), whom[target]):
        trial.gone()
        trial.close()
        return target, hit, 0.0
    began = time.monotonic()
    if draw.random() < 0.3:
        # The same request once more, as queues and launchers forward it.
        trial.signal(signal.SIGTERM, whom[target])
    trial.gone(EXIT_SECONDS)
    seconds = time.monotonic() - began
    judge(trial, run_dir, target)
    trial.close()
    return target, hit, max(seconds, 1e-3)


def judge(trial: trials.Trial, run_dir: Path, target: str) -> None:
    """A run that has begun has saved its last step and told so once; one that has not left nothing."""
    status = trial.wait(10)
    saved, reached = trials.saved_step(run_dir), trials.reached(run_dir)
    if not run_dir.exists():
        assert status and not reached, f"{status}: {trial.err}"
        return
    assert saved >= reached, f"step {reached} was reached, step {saved} is saved: {trial.out}\n{trial.err}"
    asked = trial.out.count("stopped on request")
    assert asked == (not (run_dir / "finished.json").exists()), f"{trial.out}\n{trial.err}"
    if target.startswith("rank") and asked:
        # The launcher or the head has a status of its own where the signal ended it.
        assert status == EXIT_SAVED, f"{status}: {trial.err}"
