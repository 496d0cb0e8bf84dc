"""Times of runs on a GPU: events around each call with the L2 cache flushed before it, CUDA graphs for short calls.

A call of a few kernels of some microseconds is bound by the host that starts them; replayed as a graph it shows what
the device needs, which is also how a captured training step runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kernels.bench.records import Run
from kernels.bench.timing import Timing, without_garbage_collection

# Calls below this are captured: a dozen kernels of up to 50 microseconds.
GRAPH_BELOW_SECONDS = 1e-3
_WARM_UP = 3
_LEAST_FLUSH_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class _Captured:
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph | None
    # The graphs write into these; they must live as long as the graphs are replayed.
    outputs: tuple[torch.Tensor, ...]
    gradients: tuple[torch.Tensor, ...]


def flush_buffer(device: torch.device) -> torch.Tensor:
    """Memory larger than the L2 cache, to be overwritten before a timed call."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return torch.empty(max(4 * cache, _LEAST_FLUSH_BYTES), dtype=torch.int8, device=device)


def time_on_device(run: Run, repeats: int, uncapturable: str | None, flush: torch.Tensor) -> Timing:
    """Time one run; falls back from graph to events with the reason."""
    with without_garbage_collection():
        estimate = _estimate(run, flush)
        if estimate >= GRAPH_BELOW_SECONDS:
            return Timing(seconds=_by_events(run, repeats, flush), method="events")
        if uncapturable is not None:
            return Timing(seconds=_by_events(run, repeats, flush), method="events", reason=uncapturable)
        try:
            captured = _capture(run)
        except Exception as error:
            torch.cuda.synchronize()
            reason = f"not capturable: {type(error).__name__}: {str(error).splitlines()[0]}"
            return Timing(seconds=_by_events(run, repeats, flush), method="events", reason=reason)
        return Timing(seconds=_by_graph(captured, repeats, flush), method="graph")


def _estimate(run: Run, flush: torch.Tensor) -> float:
    calls = [_both(run) for _ in range(_WARM_UP)]
    for call in calls:
        call()
    return min(_timed([_both(run)] * _WARM_UP, flush))


def _both(run: Run) -> Callable[[], object]:
    def call() -> object:
        outputs = run.outputs()
        return run.backward(outputs) if run.leaves else outputs

    return call


def _timed(calls: list[Callable[[], object]], flush: torch.Tensor) -> list[float]:
    """Seconds of each call; the host runs ahead while the device still overwrites the cache."""
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in calls]
    for call, (start, end) in zip(calls, marks, strict=True):
        flush.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) * 1e-3 for start, end in marks]


def _by_events(run: Run, repeats: int, flush: torch.Tensor) -> dict[str, list[float]]:
    seconds = {"forward": _timed([run.outputs] * repeats, flush)}
    if run.leaves:
        outputs = run.outputs()
        seconds["backward"] = _timed([lambda: run.backward(outputs, keep=True)] * repeats, flush)
        del outputs
        seconds["both"] = _timed([_both(run)] * repeats, flush)
    return seconds


def _capture(run: Run) -> _Captured:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            outputs = run.outputs()
            if run.leaves:
                run.backward(outputs)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    forward = torch.cuda.CUDAGraph()
    with torch.cuda.graph(forward):
        outputs = run.outputs()
    if not run.leaves:
        return _Captured(forward=forward, backward=None, outputs=outputs, gradients=())
    backward = torch.cuda.CUDAGraph()
    # What the forward saved stays: the backward graph reads it in every replay.
    with torch.cuda.graph(backward, pool=forward.pool()):
        gradients = run.backward(outputs, keep=True)
    return _Captured(forward=forward, backward=backward, outputs=outputs, gradients=gradients)


def _by_graph(captured: _Captured, repeats: int, flush: torch.Tensor) -> dict[str, list[float]]:
    captured.forward.replay()
    seconds = {"forward": _timed([captured.forward.replay] * repeats, flush)}
    backward = captured.backward
    if backward is not None:
        backward.replay()
        seconds["backward"] = _timed([backward.replay] * repeats, flush)

        def both() -> None:
            captured.forward.replay()
            backward.replay()

        seconds["both"] = _timed([both] * repeats, flush)
    return seconds


def graph_seconds(flush: torch.Tensor) -> float:
    """What timing adds to a graph: the median replay of one that holds a single tiny kernel."""
    cell = torch.zeros(1, device=flush.device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        cell.add_(1)
    graph.replay()
    times = sorted(_timed([graph.replay] * 20, flush))
    return times[len(times) // 2]
