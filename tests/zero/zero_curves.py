"""Loss curves of the tiny real project on 1, 2 and 4 ranks, at every ZeRO stage, offloaded or not, for both tasks."""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path

for needed in ("engine", "faults"):
    folder = str(Path(__file__).resolve().parents[1] / needed)
    if folder not in sys.path:
        sys.path.append(folder)

import trials  # noqa: E402 (found through the lines above)

STEPS = 100
TASKS = ("finetune", "pretrain")
WORLDS = (2, 4, 1)
# The ways that differ most from the reference come first.
KINDS = (
    (3, "none"),
    (2, "optimizer"),
    (1, "none"),
    (2, "none"),
    (0, "none"),
    (3, "parameters"),
    (1, "optimizer"),
    (3, "optimizer"),
)
# (task, world size, stage, offload); fine-tuning is with experts.
CASES = [
    (task, world_size, stage, offload)
    for (stage, offload), world_size, task in itertools.product(KINDS, WORLDS, TASKS)
    if (world_size, stage) != (1, 0)
]


class Curves:
    """Runs cases in one precision and compares them with the run of one rank at stage 0."""

    def __init__(self, folder: Path, precision: str) -> None:
        self._bench = trials.Bench(folder)
        self._precision = precision
        self._references: dict[str, list[dict[str, float]]] = {}

    def gap(self, number: int) -> tuple[str, float]:
        """Largest relative gap of the loss over the steps of a case; AssertionError if the run fails."""
        task, world_size, stage, offload = CASES[number]
        if task not in self._references:
            self._references[task] = self._losses(task, 1, 0, "none")
        expected = self._references[task]
        found = self._losses(task, world_size, stage, offload)
        names = [name for name in expected[0] if name == "loss" or name.startswith("loss/")]
        assert "loss" in names and len(names) == 3, names
        gaps = [
            abs(ours[name] - theirs[name]) / abs(theirs[name])
            for ours, theirs in zip(found, expected, strict=True)
            for name in names
        ]
        return f"{task}, stage {stage}", max(gaps)

    def _losses(self, task: str, world_size: int, stage: int, offload: str) -> list[dict[str, float]]:
        name = f"{task}-{self._precision}-{world_size}-{stage}-{offload}"
        run_file = self._bench.write_run(name, task)
        run_dir = run_file.with_suffix("")
        shutil.rmtree(run_dir, ignore_errors=True)
        values = {
            "zero_stage": stage,
            "offload": offload,
            "precision": self._precision,
            "steps": STEPS,
            "save_every": "null",
        }
        arguments = [f"engine.{key}={value}" for key, value in values.items()]
        trial = self._bench.fork(run_file, *arguments, ranks=0 if world_size == 1 else world_size)
        assert trial.wait() == 0, f"{trial.out}\n{trial.err}"
        trial.close()
        lines = [line for line in trials.lines(run_dir) if "loss" in line]
        assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
        shutil.rmtree(run_dir)
        return lines
