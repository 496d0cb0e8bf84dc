"""One rank of `s4d profile scaling`: the training loop itself over a few steps, with a clock where telemetry would be.

Started by `s4d.cli.profile_scaling` as `python -m s4d.cli.profile_scaling_rank JOB`, a JSON file with configurations to
run one after another, and the variables of a launcher; rank 0 writes what it found to the file that the job names.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from engine.failure import leave, report
from engine.loop import Training
from engine.runtime import Runtime, start_runtime
from s4d.analysis.scaling.points import WARM_UP
from s4d.analysis.synthetic_batches import SyntheticBatches, description
from s4d.cli.collectives import Traffic
from s4d.cli.loop_alone import Silent, loop_alone
from s4d.config import Config
from s4d.data.loader import TrainBatches, build_batches
from s4d.models.backends import check_backends
from s4d.tasks import build_task, restore_task


class Clock(Silent):
    """Stands where the loop has its telemetry: notes the ends of steps, and starts counting after the warm-up."""

    def __init__(self, traffic: Traffic, device: torch.device) -> None:
        self._traffic = traffic
        self._device = device
        self._ends: list[Any] = []
        self._data: list[float] = []

    def waited(self, seconds: float) -> None:
        """Time that the loop spent waiting for a batch."""
        self._data.append(seconds)

    def observe(self, step: int, *_: object, **__: object) -> None:
        """The end of a step; the host does not wait for the device here, as in training between logged steps."""
        if step < WARM_UP:
            return
        if step == WARM_UP:
            self._traffic.waiting.take()
            self._traffic.take()
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._ends.append(event)
        else:
            self._ends.append(time.perf_counter())

    def found(self) -> dict[str, Any]:
        """Seconds of every step after the warm-up; of data and collectives a step; messages of all these steps."""
        steps = len(self._ends) - 1
        collectives = self._traffic.waiting.take() / steps
        pairs = zip(self._ends[:-1], self._ends[1:], strict=True)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            seconds = [first.elapsed_time(last) / 1e3 for first, last in pairs]
        else:
            seconds = [last - first for first, last in pairs]
        return {
            "step_seconds": seconds,
            "collective_seconds": collectives,
            "data_seconds": fmean(self._data[WARM_UP:]),
            "traffic": self._traffic.take(),
        }


def measure(config: Config, runtime: Runtime, traffic: Traffic, *, synthetic: bool) -> dict[str, Any]:
    """What one configuration does on these ranks; collective, the result is rank 0's."""
    batches: TrainBatches | SyntheticBatches
    if synthetic:
        check_backends(config.engine.backends)
        task = restore_task(config, description(config), device=runtime.device)
        steps = config.engine.steps or 0
        batches = SyntheticBatches(config, steps, rank=runtime.rank, world_size=runtime.world_size)
    else:
        task = build_task(config, rank=runtime.rank, world_size=runtime.world_size, device=runtime.device)
        batches = build_batches(config, runtime.rank, runtime.world_size, runtime.device)
    clock = Clock(traffic, runtime.device)
    training, state = loop_alone(Training, config, task, batches, runtime, clock)
    try:
        training.run(0)
        found = runtime.gather({**clock.found(), "threads": torch.get_num_threads()})
    finally:
        batches.close()
    training.engine.destroy()
    return {
        # A step is over when its last rank is done.
        "step_seconds": [max(each) for each in zip(*(one["step_seconds"] for one in found), strict=True)],
        "collective_seconds": fmean(one["collective_seconds"] for one in found),
        "data_seconds": max(one["data_seconds"] for one in found),
        "traffic": found[0]["traffic"],
        "threads": found[0]["threads"],
        "samples": sum(batches.samples_per_step.values()),
        "sizes": [torch.Size(each).numel() for each in state.shapes.values()],
    }


def main(job: dict[str, Any]) -> None:
    """Measure all configurations one after another."""
    traffic = Traffic(on_gpu=job["device"] == "cuda")
    traffic.watch()
    runtime = start_runtime()
    found = []
    for text in job["configs"]:
        config = Config.model_validate_json(text, strict=True)
        found.append(measure(config, runtime, traffic, synthetic=job["synthetic"]))
    if runtime.rank == 0:
        Path(job["target"]).write_text(json.dumps(found))
    runtime.close()


if __name__ == "__main__":
    try:
        main(json.loads(Path(sys.argv[1]).read_text()))
    except BaseException as error:
        leave(report(error))
    leave(0)
