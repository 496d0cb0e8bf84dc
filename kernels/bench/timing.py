"""Times of runs on the CPU: rounds that call every peer once, so that drift of the machine hits all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from kernels.bench.records import Run

WARM_UP = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds per phase, one entry per repeat, and how they were taken."""

    seconds: Mapping[str, list[float]]
    method: str
    reason: str | None = None


def quantile(values: list[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lie, by linear interpolation."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(share))


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Collect now and not inside."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def time_interleaved(runs: Mapping[str, Run], repeats: int) -> dict[str, Timing]:
    """Time all ``runs`` in rounds; the order turns by one each round."""
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in runs}
    names = list(runs)
    with without_garbage_collection():
        for turn in range(-WARM_UP, repeats):
            for name in names:
                for phase, value in _once(runs[name]).items():
                    if turn >= 0:
                        seconds[name].setdefault(phase, []).append(value)
            names = names[1:] + names[:1]
    return {name: Timing(seconds=phases, method="wall") for name, phases in seconds.items()}


def _once(run: Run) -> dict[str, float]:
    start = time.perf_counter()
    outputs = run.outputs()
    middle = time.perf_counter()
    if not run.leaves:
        return {"forward": middle - start}
    gradients = run.backward(outputs)
    end = time.perf_counter()
    del outputs, gradients
    return {"forward": middle - start, "backward": end - middle, "both": end - start}
