"""One rank of the engine's tests: a list of runs of the small model, one after the other in the same process group."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from engine_fakes import TinyBatches, TinyTask, tiny_config

from engine.failure import leave
from engine.run import Choices, execute
from engine.run_folder import RunFolder
from engine.runtime import Runtime, start_runtime
from engine.stop import StopRequest


class StopAfter(StopRequest):
    """A request that comes up once `looks` looks were taken, on one rank only."""

    def __init__(self, looks: int | None) -> None:
        super().__init__()
        self.left = looks

    @property
    def requested(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left < 0


def run(job: dict[str, Any], runtime: Runtime) -> None:
    """Execute one job; an expected failure is written to the run folder as `outcome.txt`."""
    run_dir = Path(job["run_dir"])
    folder = RunFolder(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    config = tiny_config(run_dir, **job.get("config", {}))
    source = folder.source("auto", config.engine)
    is_last = runtime.rank == runtime.world_size - 1
    batches = TinyBatches(
        rank=runtime.rank,
        world_size=runtime.world_size,
        accumulation=config.batch.accumulation,
        total_steps=job.get("total_steps", 6),
        broken_step=job.get("broken_step") if is_last else None,
    )
    task = TinyTask(width=job.get("width", 5), poison_step=job.get("poison_step") if is_last else None)
    stop = StopAfter(job.get("stop_after") if runtime.rank == 0 else None)
    choices = Choices(read=dict, replay=lambda stored: None)
    try:
        done = execute(
            task,
            batches,
            config,
            runtime=runtime,
            stop=stop,
            folder=folder,
            source=source,
            choices=choices,
            save_config=lambda path: None,
        )
        outcome = "done" if done else "stopped"
    except Exception as error:
        if "fails" not in job:
            raise
        outcome = f"{type(error).__name__} {getattr(error, 'exit_code', None)}: {error}"
    if job.get("fails") or runtime.rank == 0:
        (run_dir / f"outcome-{runtime.rank}.txt").write_text(outcome)


if __name__ == "__main__":
    joined = start_runtime()
    for number in json.loads(sys.argv[1]):
        run(number, joined)
    joined.close()
    leave(0)
