"""One rank of runs of the real tasks, plain or replayed: recordings of ops on a CPU, CUDA graphs on a GPU."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from recorded_ops import OpRecorder

import engine.run
from engine.captured import Captured, build_compute
from engine.cuda_recorder import CudaRecorder
from engine.failure import leave
from engine.run import Choices, execute
from engine.run_folder import RunFolder
from engine.runtime import Runtime, start_runtime
from engine.stop import StopRequest
from kernels import backends
from s4d.config import load, save
from s4d.data.loader import build_batches
from s4d.tasks import build_task


def captured(wrapped: Any, task: Any, config: Any, runtime: Runtime) -> Captured:
    """Stands for `build_compute`, which wants a GPU."""
    recorder = OpRecorder() if runtime.device.type == "cpu" else CudaRecorder(runtime.device)
    return Captured(wrapped, task, runtime, recorder=recorder, insist=True)


def run(job: list[str], runtime: Runtime) -> None:
    """Execute one `["plain" or "captured", path, key=value, ...]` from step 0."""
    kind, path, *overrides = job
    engine.run.build_compute = captured if kind == "captured" else build_compute
    config = load(path, overrides)
    folder = RunFolder(Path(config.run_dir))
    folder.path.mkdir(parents=True, exist_ok=True)
    task = build_task(config, rank=runtime.rank, world_size=runtime.world_size, device=runtime.device)
    batches = build_batches(config, runtime.rank, runtime.world_size, runtime.device)
    execute(
        task,
        batches,
        config,
        runtime=runtime,
        stop=StopRequest(),
        folder=folder,
        source=None,
        choices=Choices(read=backends.chosen, replay=backends.pin),
        save_config=partial(save, config),
    )
    batches.close()


if __name__ == "__main__":
    joined = start_runtime()
    for one in json.loads(sys.argv[1]):
        run(one, joined)
    joined.close()
    leave(0)
