"""One rank of runs of the real tasks: each argument is a run file with overrides, executed one after the other."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from engine.failure import leave
from engine.run import Choices, execute
from engine.run_folder import RunFolder
from engine.runtime import Runtime, start_runtime
from engine.stop import StopRequest
from kernels import backends
from s4d.config import load, save
from s4d.data.loader import build_batches
from s4d.tasks import build_task


def run(job: list[str], runtime: Runtime) -> None:
    """Execute one `[path, key=value, ...]` from step 0."""
    config = load(job[0], job[1:])
    folder = RunFolder(Path(config.run_dir))
    folder.path.mkdir(parents=True, exist_ok=True)
    task = build_task(config, rank=runtime.rank, world_size=runtime.world_size, device=runtime.device)
    batches = build_batches(config, runtime.rank, runtime.world_size, runtime.device)
    choices = Choices(read=backends.chosen, replay=backends.pin)
    assert execute(
        task,
        batches,
        config,
        runtime=runtime,
        stop=StopRequest(),
        folder=folder,
        source=None,
        choices=choices,
        save_config=partial(save, config),
    )
    batches.close()


if __name__ == "__main__":
    joined = start_runtime()
    for one in json.loads(sys.argv[1]):
        run(one, joined)
    joined.close()
    leave(0)
