"""One rank of runs of the real tasks, plain or replayed: recordings of ops on a CPU, CUDA graphs on a GPU."""

from __future__ import annotations

import json
import sys
from typing import Any

from engine_real_ranks import run
from recorded_ops import OpRecorder

import engine.run
from engine.captured import Captured, build_compute
from engine.cuda_recorder import CudaRecorder
from engine.failure import leave
from engine.runtime import Runtime, start_runtime


def captured(wrapped: Any, task: Any, config: Any, runtime: Runtime) -> Captured:
    """Stands for `build_compute`, which wants a GPU."""
    recorder = OpRecorder() if runtime.device.type == "cpu" else CudaRecorder(runtime.device)
    return Captured(wrapped, task, runtime, recorder=recorder, insist=True)


def run_as(kind: str, job: list[str], runtime: Runtime) -> None:
    """Execute one `[path, key=value, ...]` from step 0, "plain" or "captured"."""
    engine.run.build_compute = captured if kind == "captured" else build_compute
    run(job, runtime)


if __name__ == "__main__":
    joined = start_runtime()
    for one in json.loads(sys.argv[1]):
        run_as(one[0], one[1:], joined)
    joined.close()
    leave(0)
