"""Memory of a run above its inputs: the peak of forward and backward, and what the forward leaves for the backward.

On a GPU the allocator's own counters; on the CPU the profiler's record of every allocation and release by torch's
allocator. Scratch that a library takes past torch's allocator is not seen on the CPU.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from kernels.bench.records import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes: ``peak`` above the inputs, outputs and gradients included; ``held`` after the forward, without outputs."""

    peak: int
    held: int


def measure_memory(run: Run, device: torch.device) -> Memory:
    """Memory of one forward and backward of ``run``."""
    if device.type == "cuda":
        return _on_cuda(run, device)
    outputs: list[tuple[Tensor, ...]] = []
    held = sum(_allocations(lambda: outputs.append(run.outputs())))
    own = _bytes(outputs[0])
    outputs.clear()

    def both() -> None:
        result = run.outputs()
        if run.leaves:
            run.backward(result)

    return Memory(peak=max(accumulate(_allocations(both)), default=0), held=max(0, held - own))


def _bytes(tensors: tuple[Tensor, ...]) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _allocations(call: Callable[[], object]) -> Iterator[int]:
    """Bytes of each allocation (positive) and release (negative) during ``call``, in order."""
    with quiet_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    results = record.profiler.kineto_results if record.profiler is not None else None
    if results is None:
        return
    events = [event for event in results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        yield event.nbytes()


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """The profiler's library announces each start and stop there, whatever its log level."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _on_cuda(run: Run, device: torch.device) -> Memory:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    outputs = run.outputs()
    held = torch.cuda.memory_allocated(device) - before - _bytes(outputs)
    if run.leaves:
        gradients = run.backward(outputs)
        del gradients
    torch.cuda.synchronize(device)
    return Memory(peak=torch.cuda.max_memory_allocated(device) - before, held=max(0, held))
