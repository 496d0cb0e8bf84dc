"""Divides the time of some steps between labels, each instant once."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from s4d.analysis.step_profile.attribution import NODE, Label, Labels, label_work
from s4d.analysis.step_profile.marks import PREFIX
from s4d.analysis.step_profile.trace import Span, Trace

IDLE = Label("idle")
# Of what a device does at the same time the model's own work counts first: the rest costs what it does not hide.
RANKS = {"communication": 2, "host to device": 1, "data wait": 0}
COMPUTE = 3


class Interval(NamedTuple):
    """Something that goes on; of several at a time the one of the highest rank counts, of these the first."""

    start: float
    end: float
    label: Label
    rank: int


class Window(NamedTuple):
    """The time that is divided."""

    start: float
    end: float


def divide(intervals: Iterable[Interval], window: Window) -> dict[Label, float]:
    """Time of each label inside the window, and of `IDLE` where nothing goes on: together the window's length."""
    clipped = [
        Interval(max(item.start, window.start), min(item.end, window.end), item.label, item.rank)
        for item in intervals
        if item.end > window.start and item.start < window.end and item.end > item.start
    ]
    clipped.sort(key=lambda item: item.start)
    borders = sorted({window.start, window.end, *(item.start for item in clipped), *(item.end for item in clipped)})
    totals: dict[Label, float] = {}
    active: list[tuple[int, float, int]] = []
    coming = 0
    for start, end in pairwise(borders):
        while coming < len(clipped) and clipped[coming].start <= start:
            heapq.heappush(active, (-clipped[coming].rank, clipped[coming].start, coming))
            coming += 1
        while active and clipped[active[0][2]].end <= start:
            heapq.heappop(active)
        label = clipped[active[0][2]].label if active else IDLE
        totals[label] = totals.get(label, 0.0) + end - start
    return totals


def host_intervals(trace: Trace, labels: Labels, thread: str) -> list[Interval]:
    """On a CPU: the labelled ranges of the step's thread, of which the innermost counts."""
    found: list[Interval] = []
    depths: dict[Span, int] = {}
    for span in trace.spans:
        if span.thread != thread:
            continue
        depths[span] = depths[span.parent] + 1 if span.parent is not None else 0
        label = labels[span]
        if label is not None:
            found.append(Interval(span.start, span.end, label, depths[span]))
    return found


def op_intervals(trace: Trace, thread: str) -> list[Interval]:
    """On a CPU: the ops of the step's thread, without the wrappers in which autograd and hooks run Python."""
    return [
        Interval(span.start, span.end, Label("ops"), 0)
        for span in trace.spans
        if span.thread == thread and span.kind == "cpu_op" and not span.name.startswith((NODE, "torch::autograd::"))
    ]


def device_intervals(trace: Trace, labels: Labels) -> list[Interval]:
    """On a GPU: what ran there, and the host's waiting for data, which counts where the device has nothing to do."""
    found = [
        Interval(item.start, item.end, label, RANKS.get(label.part, COMPUTE))
        for item, label in label_work(trace, labels)
    ]
    waits = [span for span in trace.spans if span.name == f"{PREFIX}data wait"]
    return found + [Interval(span.start, span.end, Label("data wait"), RANKS["data wait"]) for span in waits]
