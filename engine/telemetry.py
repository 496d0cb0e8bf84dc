"""What a run tells: metrics.jsonl, env.json and one plain line per logged step."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
from torch import Tensor

from engine.protocols import StepResult
from engine.runtime import Runtime
from kernels.bench.machine import source_commit

PACKAGES = ("s4d-engine", "torch", "triton", "deepspeed", "safetensors", "numpy", "av", "pillow")


class Telemetry:
    """Logs steps. Values are added up on the device and read by the host on logged steps only.

    All values but those under `time/` are functions of the run alone. A step that is not finite has a line of its own
    kind, see `skipped`.
    """

    def __init__(
        self,
        path: Path,
        *,
        runtime: Runtime,
        samples_per_step: int,
        total_steps: int,
        log_every: int,
        counters: Mapping[str, int],
    ) -> None:
        self._runtime = runtime
        self._samples_per_step = samples_per_step
        self._total_steps = total_steps
        self._log_every = log_every
        self._earlier_counts = dict(counters)
        self._counts: dict[str, int] = {}
        self._stream: IO[str] | None = path.open("a", encoding="utf-8", buffering=1) if runtime.rank == 0 else None
        self._interval_start = time.perf_counter()
        self._interval_steps = 0
        self._data_seconds = 0.0
        self._save_seconds = 0.0

    def waited(self, seconds: float) -> None:
        """Count time spent waiting for data."""
        self._data_seconds += seconds

    def saved(self, seconds: float) -> None:
        """Count time in which training waited for a checkpoint to be copied, or for the one before to be written."""
        self._save_seconds += seconds

    @torch.no_grad()
    def observe(
        self, step: int, results: Sequence[StepResult], *, lr: float, grad_norm: float | Tensor, counts: dict[str, int]
    ) -> None:
        """Take in optimizer step `step` (the first is 1) with its micro results; collective on logged steps."""
        self._counts = counts
        self._interval_steps += 1
        if step == 1 or step % self._log_every == 0 or step == self._total_steps:
            self._log(step, results, lr=lr, norm=float(grad_norm))

    def _log(self, step: int, results: Sequence[StepResult], *, lr: float, norm: float) -> None:
        values = self._totals(results)
        if not (math.isfinite(values["loss"]) and math.isfinite(norm)):
            return
        seconds = time.perf_counter() - self._interval_start
        times = {
            "time/step": seconds / self._interval_steps,
            "time/data": self._data_seconds / self._interval_steps,
            "time/save": self._save_seconds / self._interval_steps,
            "time/samples_per_second": self._samples_per_step * self._interval_steps / seconds,
        }
        self.write({"step": step, **values, "lr": lr, "grad_norm": norm, **self.counters(), **times})
        self.say(
            f"step {step:{len(str(self._total_steps))}}/{self._total_steps} loss {values['loss']:.4f} lr {lr:.2e} "
            f"norm {norm:6.3f} {times['time/samples_per_second']:6.1f} samples/s "
            f"data {times['time/data'] / times['time/step']:3.0%}"
        )
        self._interval_start = time.perf_counter()
        self._interval_steps = 0
        self._data_seconds = 0.0
        self._save_seconds = 0.0

    def counters(self) -> dict[str, int]:
        """Counts over all ranks since step 0, those of the run that is continued included; collective."""
        counts = torch.tensor(list(self._counts.values()), dtype=torch.int64, device=self._runtime.device)
        if self._runtime.world_size > 1 and self._counts:
            dist.all_reduce(counts)
        totals = dict(zip(self._counts, counts.tolist(), strict=True))
        names = {**self._earlier_counts, **totals}
        return {name: self._earlier_counts.get(name, 0) + totals.get(name, 0) for name in names}

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Log the evaluation after step `step`."""
        if scores:
            self.write({"step": step, **{f"eval/{name}": value for name, value in scores.items()}})
            self.tell(f"step {step}", scores)

    def tell(self, what: str, scores: Mapping[str, float]) -> None:
        """Print scores, those of a source on one line."""
        for source, group in groupby(scores, key=lambda name: name.rpartition(".")[0]):
            told = ", ".join(f"{name.removeprefix(source).lstrip('.')} {scores[name]:.4f}" for name in group)
            self.say(f"{what}: {source} {told}" if source else f"{what}: {told}")

    def _totals(self, results: Sequence[StepResult]) -> dict[str, Any]:
        """Sums over accumulation and ranks of loss, parts and metrics (lists where they are not scalars)."""
        sums: dict[str, Tensor] = {}
        for result in results:
            for name, value in {"loss": result.loss, **result.parts, **result.metrics}.items():
                double = value.detach().double()
                sums[name] = sums[name] + double if name in sums else double
        flat = torch.cat([value.reshape(-1) for value in sums.values()])
        if self._runtime.world_size > 1:
            dist.all_reduce(flat)
        pieces = flat.cpu().split([value.numel() for value in sums.values()])
        shaped = zip(sums.items(), pieces, strict=True)
        return {name: piece.view(value.shape).tolist() for (name, value), piece in shaped}

    def skipped(self, step: int, reason: str) -> None:
        """Log a step that was not finite and left the weights as they were."""
        self.write({"step": step, "not_finite": reason})

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one object to metrics.jsonl."""
        if self._stream is not None:
            self._stream.write(json.dumps(line) + "\n")

    def say(self, message: str) -> None:
        """Print one line on rank 0."""
        if self._runtime.rank == 0:
            print(message, flush=True)

    def flush(self) -> None:
        """Force what was written to the disk."""
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def describe_environment(runtime: Runtime) -> dict[str, Any]:
    """Versions, hardware and command line of this process."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads_per_rank": torch.get_num_threads(),
        "device": str(torch.cuda.get_device_name(runtime.device)) if runtime.device.type == "cuda" else "cpu",
        "world_size": runtime.world_size,
        "collectives": dist.get_backend(),
        "commit": source_commit(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
