"""R18 on two nodes: a request to stop at the head, at a node's launcher or at one rank, at any moment.

The measure is seconds from the signal until no process is left on any node.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import rig_runs
import trials
from rig import Rig, why_impossible

PLACES = ("head", "launcher 0", "launcher 1", "rank 0", "rank 1")
MOMENTS = ("start", "step", "save")
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
LEAVE_SECONDS = 25.0
# A rank that is still importing comes to the request when it has all modules, which takes long on a busy machine.
START_SECONDS = 60.0
STEPS, SAVE_EVERY = 100_000, 5
SAVED = 75


def prepare(folder: Path) -> None:
    """Nothing is shared by cases."""
    reason = why_impossible()
    assert not reason, f"no rig of nodes: {reason}"


def run(number: int, folder: Path) -> tuple[str, float]:
    """Try one case: its moment, and the seconds until all was over."""
    draw = random.Random(number)
    place, moment = PLACES[number % len(PLACES)], MOMENTS[number // len(PLACES) % len(MOMENTS)]
    # DeepSpeed's own launchers die of SIGUSR1 and know the others.
    signum = draw.choice(NUMBERS if place.startswith("rank") else NUMBERS[:2])
    work = folder / f"stop-{number}"
    shutil.rmtree(work, ignore_errors=True)
    with Rig(work, nodes=2) as rig:
        rig_runs.write_project(rig)
        run_file = rig_runs.write_run(rig, "run", engine={"steps": STEPS, "save_every": SAVE_EVERY})
        trial = rig_runs.over_pdsh(rig, rig.nodes, run_file)
        await_moment(trial, moment, draw)
        began = time.monotonic()
        send(trial, place, signum)
        trial.gone(START_SECONDS if moment == "start" else LEAVE_SECONDS)
        seconds = time.monotonic() - began
        # The head's launcher leaves before the ranks, with a status of its own.
        check(trial, 1 if place == "head" else SAVED)
    shutil.rmtree(work)
    return moment, seconds


def await_moment(trial: rig_runs.Run, moment: str, draw: random.Random) -> None:
    """Wait for the start of both ranks and a little more, for a step, or for a save that has begun."""
    trial.until(lambda: len(trial.ranks()) == 2)
    if moment == "start":
        time.sleep(draw.uniform(0.2, 6.0))
    elif moment == "step":
        steps = draw.randrange(1, 12)
        trial.until(lambda: trial.logged() >= steps)
    else:
        trial.until(lambda: any((trial.run_dir / "checkpoints").glob(".tmp-*")))


def send(trial: rig_runs.Run, place: str, signum: int) -> None:
    """Signal the `deepspeed` command, a node's launcher or a rank."""
    word, _, which = place.partition(" ")
    if word == "head":
        pids = trial.rig.head.with_command("bin/deepspeed --hostfile")
    elif word == "launcher":
        pids = [trial.nodes[int(which)].launcher()]
    else:
        pids = [trial.ranks()[int(which)]]
    for pid in pids:
        os.kill(pid, signum)


def check(trial: rig_runs.Run, status: int) -> None:
    """The last logged step is saved, the head's command ends so, and nothing counts as done or as a fault."""
    trial.assert_nothing_left()
    assert trial.statuses() == [status], (trial.statuses(), trial.tail)
    logged = [line["step"] for line in trials.lines(trial.run_dir)] if trial.logged() else [0]
    assert trials.saved_step(trial.run_dir) == logged[-1], f"step {logged[-1]} was logged:\n{trial.tail}"
    assert not (trial.run_dir / "finished.json").exists() and not trial.errors, trial.tail
