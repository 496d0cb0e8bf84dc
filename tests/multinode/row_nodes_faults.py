"""R16 on two nodes: one rank or its cable fails in one phase, and everything on both nodes ends with one cause.

Numbers go over all kinds x (first, last rank) x phases in a mixed order. The measure is seconds from the fault until no
process is left anywhere.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import rig_runs
import trials
from rig import Rig, why_impossible

KINDS = ("exception", "exit0", "exit1", "sigkill", "sigsegv", "sigstop", "busy", "gil", "link", "slow")
RANKS = (0, "last")
PHASES = ("load", "forward", "backward", "step", "save", "evaluate")
CASES = [(kind, rank, phase) for kind in KINDS for rank in RANKS for phase in PHASES]
# Without a common divisor with the number of cases: neighbours differ in everything.
STRIDE = 37
GONE_SECONDS = 20.0
# Far below what a user would set, far above what the tiny project needs.
LIMITS = {"start": 90, "contact": 6} | dict.fromkeys(("load", "data", "forward", "backward", "step", "evaluate"), 6)
LIMITS |= {"save": 6, "finish": 20}
ENGINE = {"steps": 16, "save_every": 4, "eval_every": 4}
STEP = 8
# The fault writes there when it happens; all nodes have one clock.
NOTE = "note"
PLACE = re.compile(r"rank (\d) of 2 on (n\d): step (\d+), (\w+): .*silent for [\d.]+ s")
# Told by the rank itself, which is alive to do so.
TOLD = re.compile(r"rank (\d) of 2 on (n\d): step (\d+), (\w+): ")
NODE = re.compile(r"node n\d: (silent for [\d.]+ s \(limit 6 s\)|its watchdog is gone), as seen from n\d")
# Phases before the first step have the limit of the start, which is generous but where it is tried itself.
HANGS = ("sigstop", "busy", "gil")
LOAD_SECONDS = 10
INJECT = trials.HERE / "inject"


def case_of(number: int) -> tuple[str, int | str, str]:
    """Kind, rank and phase."""
    return CASES[number * STRIDE % len(CASES)]


def prepare(folder: Path) -> None:
    """A run on two nodes that was killed between two checkpoints, for faults while loading."""
    reason = why_impossible()
    assert not reason, f"no rig of nodes: {reason}"
    base = folder / "base"
    if base.exists():
        return
    shutil.rmtree(folder / "preparing", ignore_errors=True)
    with Rig(folder / "preparing", nodes=2) as rig:
        run = start(rig, {"kind": "sigkill", "rank": 0, "phase": "forward", "step": 6})
        run.gone(rig_runs.LIMIT_SECONDS)
        assert trials.saved_step(run.run_dir) == 4, run.tail
        # Another system's processes: a start would wait until their lease counts as dead.
        for lease in run.run_dir.glob(".lease-*"):
            lease.unlink()
        run.run_dir.rename(base)
    shutil.rmtree(folder / "preparing")


def start(rig: Rig, fault: dict[str, object]) -> rig_runs.Run:
    """Two ranks on two nodes over pdsh, with a fault."""
    rig_runs.write_project(rig)
    limits = LIMITS | ({"start": LOAD_SECONDS} if fault["phase"] == "load" and fault["kind"] in HANGS else {})
    fault = {**fault, "note": str(rig_runs.SHARED / NOTE)}
    # Quoted for the shells of the nodes, as DeepSpeed does not.
    text = json.dumps(fault).replace('"', '\\"')
    return rig_runs.over_pdsh(
        rig,
        rig.nodes,
        rig_runs.write_run(rig, "run", engine={**ENGINE, "phase_seconds": limits}, data={"val_share": 0.3}),
        environment={"S4D_FAULT": text},
        known={"PYTHONPATH": str(INJECT)},
    )


def run(number: int, folder: Path) -> tuple[str, float]:
    """Try one case: the kind of fault, and the seconds until all was over."""
    kind, rank, phase = case_of(number)
    work = folder / f"case-{number}"
    shutil.rmtree(work, ignore_errors=True)
    with Rig(work, nodes=2) as rig:
        fault = {"kind": kind, "rank": rank, "phase": phase}
        if phase == "load":
            shutil.copytree(folder / "base", rig.shared / "run")
        else:
            fault["step"] = STEP
        trial = start(rig, fault)
        seconds = ended_well(trial) if kind == "slow" else ended(trial, kind, 1 if rank == "last" else 0, phase)
    shutil.rmtree(work)
    return kind, seconds


def ended_well(trial: rig_runs.Run) -> float:
    """A slow rank is no fault."""
    assert trial.wait() == [0], trial.tail
    trial.assert_nothing_left()
    assert (trial.run_dir / "finished.json").exists()
    return 0.0


def ended(trial: rig_runs.Run, kind: str, rank: int, phase: str) -> float:
    """Everything is gone in time, the status says so, and one line names the culprit."""
    note = trial.rig.shared / NOTE
    trial.until(lambda: note.exists() and note.read_text())
    trial.gone(GONE_SECONDS + 5)
    seconds = time.monotonic() - float(note.read_text())
    assert seconds < GONE_SECONDS, trial.tail
    assert trial.statuses()[0] not in (0, None), trial.statuses()
    trial.assert_nothing_left()
    # Without its cable the node that says it first is not heard; the file on the shared folder holds it.
    assert len(trial.errors) == 1 or (kind == "link" and not trial.errors), f"{len(trial.errors)} causes:\n{trial.tail}"
    # A rank that says itself why it does not load writes nothing: the folder may hold what it refuses.
    written = (kind, phase) != ("exception", "load")
    line = json.loads((trial.run_dir / "failure.json").read_text())["cause"] if written else trial.errors[0]
    if kind == "link":
        assert NODE.search(line), line
    else:
        assert kind == "exception" or line == trial.errors[0], line
        found = (TOLD if kind == "exception" else PLACE).search(line)
        assert found, line
        step = "4" if phase == "load" else str(STEP)
        assert (found[1], found[2], found[4]) == (str(rank), f"n{rank}", phase), line
        assert phase == "load" or found[3] == step, line
    return seconds
