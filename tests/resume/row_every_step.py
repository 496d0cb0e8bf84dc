"""R10: a run continued after any of its steps is, bit for bit, the run that was never interrupted.

Forty steps with everything that has a state or is drawn at random are trained once with a checkpoint after each of
them. Each case loads one of these into a new engine and trains on: two steps, or to the end after every eighth.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

from resume_group import Answer, checkpoint_of, group_of, logged, tensor_files, write_project

STEPS = 40
AFTER = 2
# Of each kind of run the first few cases are spread over it.
FIRST = (20, 1, 39, 8, 31, 13)
ORDER = (*FIRST, *(step for step in range(1, STEPS) if step not in FIRST))

Kind = tuple[str, str, int, int]
KINDS: tuple[Kind, ...] = (
    ("finetune", "fp32", 2, 1),
    ("pretrain", "fp32", 2, 3),
    *(
        (task, "fp32", world_size, stage)
        for world_size in (2, 1)
        for task in ("finetune", "pretrain")
        for stage in range(4)
        if (task, world_size, stage) not in (("finetune", 2, 1), ("pretrain", 2, 3))
    ),
    ("finetune", "bf16", 2, 1),
    ("pretrain", "bf16", 2, 3),
    ("finetune", "bf16", 1, 0),
    ("finetune", "fp32", 4, 1),
    ("pretrain", "fp32", 4, 3),
)
CASES = len(KINDS) * len(ORDER)

_whole: dict[Kind, list[Answer]] = {}


def prepare(folder: Path) -> None:
    """Media and run files."""
    write_project(folder)


def run(number: int, folder: Path) -> str:
    """Outcome: the kind of run."""
    kind, step = KINDS[number // len(ORDER)], ORDER[number % len(ORDER)]
    task, precision, world_size, stage = kind
    group = group_of(world_size, folder)
    overrides = [str(folder / f"{task}.yaml"), *_overrides(kind)]
    whole, cut = folder / "-".join(map(str, kind)), folder / "cut"
    if kind not in _whole:
        for earlier in folder.glob(f"{task}-*"):
            shutil.rmtree(earlier)
        _whole[kind] = group.ask([*overrides, f"run_dir={whole}"], shake=number)
    shutil.rmtree(cut, ignore_errors=True)
    end = STEPS if step % 8 == 0 else min(STEPS, step + AFTER)
    answers = group.ask(
        [*overrides, f"run_dir={cut}"],
        source=checkpoint_of(whole, step),
        looks=None if end == STEPS else end - step,
        shake=number + 1,
    )
    for rank, (ours, theirs) in enumerate(zip(answers, _whole[kind], strict=True)):
        assert ours["done"] == (end == STEPS)
        for at in range(step, end):
            assert ours["seen"][str(at)] == theirs["seen"][str(at)], f"rank {rank} reads other samples in step {at}"
    for at in range(step + 1, end + 1):
        ours, theirs = checkpoint_of(cut, at), checkpoint_of(whole, at)
        assert (ours / "state.json").read_bytes() == (theirs / "state.json").read_bytes(), f"counters after {at}"
        found = tensor_files(ours)
        for name, content in tensor_files(theirs).items():
            assert found[name] == content, f"continued after {step}, {name} of step {at} differs"
    assert logged(cut) == [line for line in logged(whole, step) if line["step"] <= end], "the logs differ"
    return f"{task} {precision} x{world_size} ZeRO-{stage}"


def _overrides(kind: Kind) -> list[str]:
    task, precision, world_size, stage = kind
    views = 16 if world_size == 4 else 8
    overrides = [
        f"engine.steps={STEPS}",
        f"engine.zero_stage={stage}",
        f"engine.precision={precision}",
        f"batch.per_step.stills={views}",
        f"batch.per_step.clips={views}",
    ]
    if kind == KINDS[0]:
        # Scores are part of the state where the best checkpoint is kept.
        return [*overrides, "engine.eval_every=1", "engine.keep_best=stills.war"]
    return [*overrides, *(["engine.eval_every=8"] if task == "finetune" else [])]
