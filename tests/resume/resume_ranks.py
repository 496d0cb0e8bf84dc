"""One rank of the tests of continued runs: runs after runs in one process group, as they are asked for.

Reads one JSON object a line: `run`, a run file with overrides; `source`, a checkpoint or null; `looks`, steps until a
stop is asked for, or null; `ahead`, steps that are read only, after the training; `shake`, a seed for the generators
that nothing may depend on. Answers with what the rank was handed in each step: `{"done", "seen", "ahead"}`.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batch_records import pixel_records

from engine.failure import leave
from engine.run import Choices, execute
from engine.run_folder import RunFolder
from engine.runtime import Runtime, start_runtime
from engine.stop import StopRequest
from kernels import backends
from s4d.config import load, save
from s4d.data.loader import TrainBatches, build_batches
from s4d.tasks import build_task

# Of each sequence of each micro batch: its modality and a hash of all that is known of it.
Seen = list[list[tuple[str, str]]]


class StopAfter(StopRequest):
    """A request that comes up once `looks` looks were taken; None never."""

    def __init__(self, looks: int | None) -> None:
        super().__init__()
        self.left = looks

    @property
    def requested(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left < 0


class Watched:
    """Batches that note what they hand out."""

    def __init__(self, batches: TrainBatches) -> None:
        self._batches = batches
        self.seen: dict[int, Seen] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    def steps(self, start: int) -> Iterator[list[Any]]:
        for step, micro_batches in enumerate(self._batches.steps(start), start):
            self.seen[step] = [[_hashed(record) for record in pixel_records(batch)] for batch in micro_batches]
            yield micro_batches


def _hashed(record: tuple[Any, ...]) -> tuple[str, str]:
    return record[0], blake2b(repr(record).encode(), digest_size=8).hexdigest()


def run(job: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    """One run, or a part of one."""
    config = load(job["run"][0], job["run"][1:])
    random.seed(job["shake"])
    np.random.seed(job["shake"])
    torch.manual_seed(job["shake"])
    folder = RunFolder(Path(config.run_dir))
    folder.path.mkdir(parents=True, exist_ok=True)
    task = build_task(config, rank=runtime.rank, world_size=runtime.world_size, device=runtime.device)
    watched = Watched(build_batches(config, runtime.rank, runtime.world_size))
    done = execute(
        task,
        watched,
        config,
        runtime=runtime,
        stop=StopAfter(job["looks"] if runtime.rank == 0 else None),
        folder=folder,
        source=Path(job["source"]) if job["source"] else None,
        choices=Choices(read=backends.chosen, replay=backends.pin),
        save_config=partial(save, config),
    )
    seen, watched.seen = watched.seen, {}
    if job["ahead"]:
        first = max(seen, default=-1)
        steps = watched.steps(first)
        for _ in range(job["ahead"]):
            next(steps)
    watched.close()
    return {"done": done, "seen": seen, "ahead": watched.seen}


def serve() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    runtime = start_runtime()
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line), runtime)), file=answers, flush=True)
    leave(0)


if __name__ == "__main__":
    serve()
