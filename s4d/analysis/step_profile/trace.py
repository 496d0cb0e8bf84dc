"""Reads a trace that torch.profiler wrote: nested ranges of every host thread, and what ran on the device.

Times are microseconds, as in the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4d.errors import DataError

HOST_KINDS = ("cpu_op", "user_annotation", "cuda_runtime", "cuda_driver", "python_function")
DEVICE_KINDS = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass(eq=False, slots=True)
class Span:
    """A range on a host thread: an op, an annotation, a call of the CUDA runtime, or a Python function.

    `sequence` numbers the autograd node that an op makes, or that runs here; `correlation` names what a call starts.
    """

    name: str
    kind: str
    thread: str
    start: float
    end: float
    sequence: int | None = None
    correlation: int | None = None
    parent: Span | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceWork:
    """A kernel, copy or fill on the device, and the number of the call that started it."""

    name: str
    kind: str
    start: float
    end: float
    correlation: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """Bytes that torch's CPU allocator gave (positive) or took back."""

    time: float
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """All of a trace in the order of start times; a range comes before those inside it."""

    spans: tuple[Span, ...]
    work: tuple[DeviceWork, ...]
    allocations: tuple[Allocation, ...]


def read_trace(path: Path) -> Trace:
    """The trace in a file; DataError if it is none."""
    try:
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        return parse_trace(events)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no trace of torch.profiler: {type(error).__name__}: {error}") from error


def parse_trace(events: list[dict[str, Any]]) -> Trace:
    """The trace of a file's events."""
    spans, work, allocations = [], [], []
    for event in events:
        kind, arguments = event.get("cat"), event.get("args") or {}
        if kind in HOST_KINDS:
            spans.append(_span(event, arguments))
        elif kind in DEVICE_KINDS:
            start = float(event["ts"])
            work.append(
                DeviceWork(
                    name=event["name"],
                    kind=kind,
                    start=start,
                    end=start + float(event.get("dur", 0)),
                    correlation=arguments.get("correlation"),
                )
            )
        elif event["name"] == "[memory]" and arguments.get("Device Type") == 0:
            allocations.append(Allocation(time=float(event["ts"]), bytes=int(arguments["Bytes"])))
    # Of two ranges that begin together the longer one is outside; of two alike, an annotation is around an op.
    spans.sort(key=lambda span: (span.start, -span.end, span.kind != "python_function", span.kind != "user_annotation"))
    _nest(spans)
    return Trace(
        spans=tuple(spans),
        work=tuple(sorted(work, key=lambda item: item.start)),
        allocations=tuple(sorted(allocations, key=lambda item: item.time)),
    )


def _span(event: dict[str, Any], arguments: dict[str, Any]) -> Span:
    start = float(event["ts"])
    return Span(
        name=event["name"],
        kind=event["cat"],
        thread=f"{event['pid']}/{event['tid']}",
        start=start,
        end=start + float(event.get("dur", 0)),
        sequence=arguments.get("Sequence number"),
        correlation=arguments.get("correlation"),
    )


def _nest(spans: list[Span]) -> None:
    open_spans: dict[str, list[Span]] = {}
    for span in spans:
        stack = open_spans.setdefault(span.thread, [])
        while stack and stack[-1].end <= span.start:
            stack.pop()
        if stack:
            span.parent = stack[-1]
        stack.append(span)
