"""The numbers of a profile from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from s4d.analysis.step_profile import result, syncs, timeline
from s4d.analysis.step_profile.attribution import Label, label_spans, windows
from s4d.analysis.step_profile.load import Load, mean_load
from s4d.analysis.step_profile.marks import BACKWARD
from s4d.analysis.step_profile.timeline import Window
from s4d.analysis.step_profile.trace import Trace


class Measured(Protocol):
    """What a profile has measured: times in seconds, memory in bytes, `loads` of each micro batch of each step."""

    @property
    def step_seconds(self) -> float: ...
    @property
    def all_steps(self) -> list[float]: ...
    @property
    def trace(self) -> Trace: ...
    @property
    def stacks(self) -> Trace: ...
    @property
    def loads(self) -> Sequence[Sequence[Load]]: ...
    @property
    def triton(self) -> Mapping[str, int]: ...
    @property
    def memory(self) -> Mapping[str, int]: ...
    @property
    def parameters(self) -> int: ...


def profile_numbers(found: Measured, precision: str, limits: Mapping[str, float], *, on_gpu: bool) -> dict[str, Any]:
    """All numbers of the document; `limits` are the `flops` and `bytes` per second that floors are made of."""
    load, step = mean_load(found.loads), found.step_seconds
    raw, python = divided(found.trace, on_gpu=on_gpu)
    times = result.fitted(raw, step, on_gpu=on_gpu)
    profiled = sum(raw.values())
    whole = result.split(times)
    numbers: dict[str, Any] = {
        "limits": dict(limits),
        "rates": _rates(load, step) | {"all_steps_seconds": list(found.all_steps)},
        "profiler": {"step_seconds": profiled, "slow_down": profiled / step},
        "split": whole,
        "parts": result.part_rows(times, load, limits),
        "backward_outside_seconds": times.get(Label(BACKWARD, BACKWARD), 0.0),
        "optimizer": result.optimizer_row(whole["optimizer"], found.parameters, precision, limits),
        "python_seconds": None if on_gpu else python * step / profiled,
        "utilisation": {
            "flops": load.flops,
            "flops_per_second": load.flops / step,
            "share": load.flops / step / limits["flops"],
        },
        **_counts(found, on_gpu=on_gpu),
    }
    return numbers | {"gaps": result.largest_gaps(numbers)}


def divided(trace: Trace, *, on_gpu: bool) -> tuple[dict[Label, float], float]:
    """Seconds of a profiled step by label, which add up to the step; on a CPU also those in which no op ran."""
    steps = windows(trace)
    window = Window(steps[0].start, steps[-1].end)
    labels, unit = label_spans(trace), 1e-6 / len(steps)
    if on_gpu:
        found = timeline.divide(timeline.device_intervals(trace, labels), window)
        return {label: unit * value for label, value in found.items()}, 0.0
    thread = steps[0].thread
    found = timeline.divide(timeline.host_intervals(trace, labels, thread), window)
    ops = timeline.divide(timeline.op_intervals(trace, thread), window)
    idle = found.get(timeline.IDLE, 0.0)
    return {label: unit * value for label, value in found.items()}, unit * (ops.get(timeline.IDLE, 0.0) - idle)


def _rates(load: Load, step: float) -> dict[str, Any]:
    return {
        "step_seconds": step,
        "clips_per_second": load.samples.get("video", 0.0) / step,
        "images_per_second": load.samples.get("image", 0.0) / step,
        "tokens_per_second": load.tokens / step,
        "visible_tokens_per_second": load.visible / step,
        "samples": load.samples,
    }


def _counts(found: Measured, *, on_gpu: bool) -> dict[str, Any]:
    """Launches, waits and memory, of the step that was traced with stacks."""
    trace = found.stacks
    (step,) = windows(trace)
    window, labels = Window(step.start, step.end), label_spans(trace)
    rows = syncs.host_syncs(trace, labels, window, on_gpu=on_gpu)
    memory = dict(found.memory) if on_gpu else {"step_peak": syncs.peak_allocated(trace, window)}
    return {
        "launches": syncs.launches(trace, labels, window, on_gpu=on_gpu),
        "triton_launches": dict(found.triton),
        "host_syncs": {"ours_in_forward_and_backward": syncs.waits_of_ours(rows), "rows": rows},
        "memory": memory,
    }
