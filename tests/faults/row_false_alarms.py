"""R17: a minute of training in which much is slow within its limits: the watchdog must not say a word."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import trials
from matrix import INJECT

bench: trials.Bench
# Delays are a large share of the limit of their phase. While one rank saves or evaluates, the other may wait for it in
# a phase whose own limit is shorter.
SHORT, LONG = 4.0, 8.0
LIMITS = {**dict.fromkeys(("data", "forward", "backward", "step"), SHORT), "evaluate": LONG, "save": LONG}
DELAYS = {"data": 2.6, "forward": 2.6, "backward": 2.6, "step": 2.6, "evaluate": 6.0, "save": 6.0}
FIRST_STEP_SECONDS = 10.0
STEPS = 16
WATCHED_SECONDS = 60.0
# On a busy machine it takes longer, which is what the limits are for.
DONE_SECONDS = 300.0


def prepare(folder: Path) -> None:
    """Start the server of the trials."""
    global bench
    bench = trials.Bench(folder)


def run(number: int, folder: Path) -> str:
    """A run of two ranks with a first step that takes long, as compilation does, and slow phases of random ranks."""
    draw = random.Random(f"false alarms {number}")
    faults: list[dict[str, object]] = [
        {"kind": "busy", "rank": draw.randrange(2), "phase": "forward", "step": 1, "seconds": FIRST_STEP_SECONDS}
    ]
    for step in range(2, STEPS + 1):
        # Only even steps save and evaluate.
        phases = sorted(DELAYS) if step % 2 == 0 else ["backward", "data", "forward", "step"]
        phase, kind = draw.choice(phases), draw.choice(("busy", "sleep"))
        faults.append({"kind": kind, "rank": draw.randrange(2), "phase": phase, "step": step, "seconds": DELAYS[phase]})
    run_file = bench.write_run(f"slow-{number}")
    limits = json.dumps({**LIMITS, "start": 60, "load": 10, "finish": 20})
    arguments = (f"engine.steps={STEPS}", "engine.save_every=2", "engine.eval_every=2", "data.val_share=0.3")
    environment = {"PYTHONPATH": str(INJECT), "S4D_FAULT": json.dumps(faults)}
    trial = bench.launch(run_file, *arguments, "--fresh", f"engine.phase_seconds={limits}", environment=environment)
    assert trial.wait(DONE_SECONDS) == 0 and not trial.errors, trial.err
    assert time.monotonic() - trial.began > WATCHED_SECONDS
    trial.close()
    assert not (run_file.with_suffix("") / "failure.json").exists()
    return "silent"
