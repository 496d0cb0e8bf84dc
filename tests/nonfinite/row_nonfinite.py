"""R19: NaN and infinities in inputs, activations, losses, gradients and weights never get into a run's state."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[0:0] = [str(HERE), str(HERE.parent / "engine")]

from engine_ports import free_port  # noqa: E402 (found through the line above)
from engine_project import write_media, write_run  # noqa: E402
from poison import BAD_STEP, STEPS, Case, all_cases  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

CASES = all_cases()
FILES = ("model.safetensors", "optimizer.safetensors", "ema.safetensors")
WORLD_SIZE = 2
ranks: list[subprocess.Popen[str]] = []
# Task, stage and precision -> the files of a run without the bad step.
without: dict[tuple[str, int, str], dict[str, bytes]] = {}


def prepare(folder: Path) -> None:
    """Write media and run files, start the ranks."""
    if not (folder / "stills.csv").exists():
        write_media(folder)
    for task in ("pretrain", "finetune"):
        write_run(folder, task, task)
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(WORLD_SIZE),
        "LOCAL_SIZE": str(WORLD_SIZE),
    }
    ranks[:] = [
        subprocess.Popen(
            [sys.executable, str(HERE / "poisoned_ranks.py"), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / f"errors-{rank}.txt").open("w"),
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            text=True,
        )
        for rank in range(WORLD_SIZE)
    ]
    without.clear()


def close() -> None:
    """End the ranks."""
    for rank in ranks:
        rank.communicate(timeout=30)


def run(number: int, folder: Path) -> str:
    """One case; the outcome is the place of the poison and the end of the run."""
    case = CASES[number]
    reports = tried(case)
    first, last = BAD_STEP, BAD_STEP + case.bad_steps
    target = reports[case.rank]
    line = f"step {first}: not finite: rank {case.rank}: {target['expected']}"
    assert all(report["before"] == report["after"] for report in reports), f"{case}: the state was touched: {reports}"
    assert len({tuple(report["skipped"]) for report in reports}) == 1, f"{case}: ranks differ: {reports}"
    saved = sorted(path.name for path in (folder / "case/checkpoints").glob("step-*"))
    assert all(finite(folder / "case/checkpoints" / name) for name in saved), f"{case}: published {saved}"
    steps = [int(name.removeprefix("step-")) for name in saved]
    said = reports[0]["said"]
    assert re.search(f"^{re.escape(line)}; kept in .*; the step was skipped \\(1 of 1\\)$", said, re.MULTILINE), (
        f"{case}: expected {line!r} in {said}"
    )
    healed = case.bad_steps <= case.skip and reports[0]["outcome"] == "done"
    if healed:
        assert steps == [step for step in range(1, STEPS + 1) if not first <= step < last], f"{case}: {steps}"
        state = json.loads((folder / f"case/checkpoints/step-{STEPS:08d}/state.json").read_bytes())
        assert state["updates"] == STEPS - case.bad_steps, f"{case}: {state}"
        assert content(folder) == reference(case, folder), f"{case}: differs from a run without the bad step"
    else:
        assert case.bad_steps > case.skip or case.place == "weight", f"{case}: {reports}"
        assert reports[0]["outcome"].startswith(f"NonFiniteError 5: step {first + case.skip}: not finite: "), reports
        assert reports[1]["outcome"].startswith("PeerFailedError 5: "), reports
        assert steps == list(range(1, first)), f"{case}: {steps}"
    return f"{case.place}: {'skipped' if healed else 'ended'}"


def tried(case: Case) -> list[dict[str, Any]]:
    """The ranks' reports about a case."""
    line = json.dumps(dataclasses.asdict(case)) + "\n"
    for rank in ranks:
        assert rank.stdin is not None
        rank.stdin.write(line)
        rank.stdin.flush()
    answers = [rank.stdout.readline() for rank in ranks if rank.stdout is not None]
    assert all(answers), "the ranks have died"
    return [json.loads(answer) for answer in answers]


def reference(case: Case, folder: Path) -> dict[str, bytes]:
    """Weights, moments and average at the end of a run that never computes the bad step."""
    key = (case.task, case.stage, case.precision)
    if key not in without:
        reports = tried(dataclasses.replace(case, place="none"))
        assert reports[0]["outcome"] == "done", reports
        without[key] = content(folder)
    return without[key]


def content(folder: Path) -> dict[str, bytes]:
    """Files of the last checkpoint."""
    newest = folder / f"case/checkpoints/step-{STEPS:08d}"
    return {name: (newest / name).read_bytes() for name in FILES}


def finite(checkpoint: Path) -> bool:
    """Whether all a checkpoint holds is finite."""
    return all(bool(tensor.isfinite().all()) for name in FILES for tensor in load_file(checkpoint / name).values())
