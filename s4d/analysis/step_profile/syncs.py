"""Counts what a step starts, and where the host waits for the device, from traces.

On a GPU the waiting calls of the CUDA runtime; on a CPU, where nothing waits, the ops that would: they give the host a
value, or a shape that depends on values. A place is the innermost Python function that is not torch's own, which needs
a trace with stacks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from s4d.analysis.step_profile.attribution import FORWARD, Label, Labels, label_work, started_by
from s4d.analysis.step_profile.marks import BACKWARD
from s4d.analysis.step_profile.timeline import Window
from s4d.analysis.step_profile.trace import Span, Trace

RUNTIME_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
OPS_WAITING = (
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::bincount",
    "aten::_unique2",
    "aten::unique_dim",
)
# A function of Python in a trace: file, line, name.
FUNCTION = re.compile(r"(?P<file>[^<].*\.py)\(\d+\): (?P<name>.*)")
OURS = ("s4d/", "kernels/", "engine/")


def phase_of(label: Label | None) -> str:
    """Forward, backward, or the name of what surrounds them."""
    if label is None:
        return "idle"
    return label.phase or label.part


def host_syncs(trace: Trace, labels: Labels, window: Window, *, on_gpu: bool) -> list[dict[str, Any]]:
    """Rows of phase, call, place, owner and count inside a window, the most frequent first."""
    found: Counter[tuple[str, str, str]] = Counter()
    for span in trace.spans:
        waits = span.name in RUNTIME_WAITS if on_gpu else _would_wait(span)
        if waits and window.start <= span.start < window.end:
            found[phase_of(labels[span]), span.name, place_of(span)] += 1
    return [
        {"phase": phase, "call": call, "place": place, "owner": owner_of(place), "count": count}
        for (phase, call, place), count in found.most_common()
    ]


def _would_wait(span: Span) -> bool:
    return span.name in OPS_WAITING and not any(parent.name in OPS_WAITING for parent in _around(span))


def place_of(span: Span) -> str:
    """`file: function` of the innermost Python function outside of torch; else the outermost op, such as a node."""
    outermost = span.name
    for parent in _around(span):
        if parent.kind == "python_function":
            match = FUNCTION.fullmatch(parent.name)
            if match and not match["file"].startswith("torch/") and "/torch/" not in match["file"]:
                return f"{match['file']}: {match['name']}"
        elif parent.kind == "cpu_op":
            outermost = parent.name
    return outermost


def _around(span: Span) -> Iterator[Span]:
    parent = span.parent
    while parent is not None:
        yield parent
        parent = parent.parent


def owner_of(place: str) -> str:
    """Whose code a place is: ours, deepspeed or other."""
    if "deepspeed/" in place:
        return "deepspeed"
    return "ours" if place.startswith(OURS) or any(f"/{name}" in place for name in OURS) else "other"


def waits_of_ours(rows: list[dict[str, Any]]) -> int:
    """Waits in forward and backward that are not DeepSpeed's."""
    return sum(row["count"] for row in rows if row["phase"] in (FORWARD, BACKWARD) and row["owner"] != "deepspeed")


def launches(trace: Trace, labels: Labels, window: Window, *, on_gpu: bool) -> dict[str, int]:
    """What the host starts in a window by phase: kernels on a GPU, ops that hold no other op on a CPU."""
    found: Counter[str] = Counter()
    if on_gpu:
        calls = started_by(trace)
        for item, label in label_work(trace, labels):
            call = calls.get(item.correlation)
            if item.kind == "kernel" and call is not None and window.start <= call.start < window.end:
                found[phase_of(label)] += 1
        return dict(found)
    holders = {span.parent for span in trace.spans if span.kind == "cpu_op"}
    for span in trace.spans:
        if span.kind == "cpu_op" and span not in holders and window.start <= span.start < window.end:
            found[phase_of(labels[span])] += 1
    return dict(found)


def peak_allocated(trace: Trace, window: Window) -> int:
    """Most bytes of torch's CPU allocator in a window above those at its start."""
    total, peak = 0, 0
    for item in trace.allocations:
        if window.start <= item.time < window.end:
            total += item.bytes
            peak = max(peak, total)
    return peak
