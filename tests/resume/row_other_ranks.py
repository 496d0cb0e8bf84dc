"""R12: a checkpoint of any number of ranks and any ZeRO stage is the same state, and the same samples, on any other."""

from __future__ import annotations

import shutil
import sys
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

from resume_group import Answer, checkpoint_of, group_of, tensor_files, write_project

WORLDS, STAGES = (1, 2, 4), (0, 1, 2, 3)
SAVED, AHEAD, STEPS = 3, 3, 10
# Ranks and stage that save, ranks and stage that load, precision.
Case = tuple[int, int, int, int, str]
FIRST: tuple[Case, ...] = ((2, 1, 1, 3, "fp32"), (1, 0, 2, 2, "fp32"))
ALL: tuple[Case, ...] = (
    *((a, from_stage, b, to, "fp32") for a, b, from_stage, to in product(WORLDS, WORLDS, STAGES, STAGES)),
    *((a, from_stage, b, to, "bf16") for a, b in product(WORLDS, WORLDS) for from_stage, to in ((1, 3), (3, 1))),
)
CASES = (*FIRST, *(case for case in ALL if case not in FIRST))


def prepare(folder: Path) -> None:
    """Media and run files."""
    write_project(folder)


def run(number: int, folder: Path) -> str:
    """Outcome: from how many ranks to how many."""
    ranks, stage, later_ranks, later_stage, precision = CASES[number]
    saved = checkpoint_of(_saved_by(folder, ranks, stage, precision), SAVED)
    moved = folder / "moved"
    shutil.rmtree(moved, ignore_errors=True)
    overrides = _job(folder, later_stage, precision, moved)
    # Stopped before its first step, the run saves what it has loaded.
    answers = group_of(later_ranks, folder).ask(overrides, source=saved, looks=0, ahead=AHEAD, shake=number)
    found = tensor_files(checkpoint_of(moved, SAVED))
    for name, content in tensor_files(saved).items():
        assert found[name] == content, f"{name} is another after loading"
    samples = _in_order(answers)
    assert len(samples) == AHEAD and samples == _samples(folder), "other samples follow"
    return f"{ranks} -> {later_ranks}"


@cache
def _saved_by(folder: Path, ranks: int, stage: int, precision: str) -> Path:
    """A run of `SAVED` steps."""
    run_dir = folder / f"from-{ranks}-{stage}-{precision}"
    shutil.rmtree(run_dir, ignore_errors=True)
    group_of(ranks, folder).ask(_job(folder, stage, precision, run_dir), looks=SAVED, shake=stage)
    return run_dir


@cache
def _samples(folder: Path) -> dict[int, list[Any]]:
    """What one rank alone is handed after that many steps."""
    saved = checkpoint_of(_saved_by(folder, 1, 0, "fp32"), SAVED)
    job = _job(folder, 0, "fp32", folder / "alone")
    return _in_order(group_of(1, folder).ask(job, source=saved, looks=0, ahead=AHEAD))


def _job(folder: Path, stage: int, precision: str, run_dir: Path) -> list[str]:
    views = ["batch.per_step.stills=16", "batch.per_step.clips=16"]
    engine = [f"engine.steps={STEPS}", f"engine.zero_stage={stage}", f"engine.precision={precision}"]
    return [str(folder / "finetune.yaml"), *views, *engine, f"run_dir={run_dir}"]


def _in_order(answers: list[Answer]) -> dict[int, list[Any]]:
    """The sequences of each step ahead in the order of the plan: by modality, micro step and rank."""
    steps: dict[int, list[Any]] = {}
    for step in sorted(answers[0]["ahead"], key=int):
        seen = [answer["ahead"][step] for answer in answers]
        micro_steps = range(len(seen[0]))
        records = [record for micro in micro_steps for rank in seen for record in rank[micro]]
        steps[int(step)] = sorted(records, key=lambda record: record[0])
    return steps
