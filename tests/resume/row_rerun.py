"""R14: the same run, started again, logs the same and ends at the same weights.

Every case starts its processes anew, with other decoding processes, another order and delay of starting, another seed
of Python's hashes and other states of the global generators.
"""

from __future__ import annotations

import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

from resume_group import Answer, Group, checkpoint_of, logged, tensor_files, write_project

STEPS = 8
STILLS = '[{"name": "stills", "modality": "image", "manifest": "FOLDER/stills.csv", "views": 2}]'
CLIPS = '[{"name": "clips", "modality": "video", "manifest": "FOLDER/clips.csv", "stride": 1}]'
TASKS: dict[str, tuple[str, ...]] = {
    "images": ("pretrain", f"data.sources={STILLS}", 'batch.per_step={"stills": 8}'),
    "finetune": ("finetune",),
    "videos": ("pretrain", f"data.sources={CLIPS}", 'batch.per_step={"clips": 8}'),
}
RERUNS = 5
CASES = len(TASKS) * RERUNS
RANKS = 2

Outcome = tuple[dict[str, bytes], list[dict[str, Any]], list[Answer]]


def prepare(folder: Path) -> None:
    """Media and run files."""
    write_project(folder)


def run(number: int, folder: Path) -> str:
    """Outcome: what was run."""
    task, rerun = list(TASKS)[number % len(TASKS)], 1 + number // len(TASKS)
    found, expected = _outcome(folder, task, rerun), _first(folder, task)
    assert found[2] == expected[2], "other samples"
    assert found[1] == expected[1], "another log"
    for name, content in expected[0].items():
        assert found[0][name] == content, f"{name} differs"
    return task


@cache
def _first(folder: Path, task: str) -> Outcome:
    return _outcome(folder, task, 0)


def _outcome(folder: Path, task: str, rerun: int) -> Outcome:
    name, *overrides = [text.replace("FOLDER", str(folder)) for text in TASKS[task]]
    run_dir = folder / f"{task}-{rerun}"
    shutil.rmtree(run_dir, ignore_errors=True)
    overrides += [f"data.workers={rerun % 5}", f"engine.steps={STEPS}", f"run_dir={run_dir}"]
    group = Group(
        RANKS, folder / f"{task}-{rerun}.txt", hash_seed=1 + rerun, late=0.3 * rerun, backwards=bool(rerun % 2)
    )
    try:
        answers = group.ask([str(folder / f"{name}.yaml"), *overrides], shake=rerun)
    finally:
        group.close()
    return tensor_files(checkpoint_of(run_dir, STEPS)), logged(run_dir), answers
