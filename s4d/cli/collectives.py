"""Calls, bytes and seconds of the collectives of this process, by wrapping torch.distributed in it.

Only for processes that measure: the wrappers stay until the process ends.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Where a collective's message is found: among the arguments, by place and name.
MESSAGES = {
    "all_reduce": (0, "tensor"),
    "reduce": (0, "tensor"),
    "broadcast": (0, "tensor"),
    "all_gather": (0, "tensor_list"),
    "all_gather_into_tensor": (0, "output_tensor"),
    "reduce_scatter": (1, "input_list"),
    "reduce_scatter_tensor": (1, "input"),
}
# Norms, counts and barriers are a few numbers each and no part of what theory says of a step.
LEAST_BYTES = 1024
# Deviation of a message that padding explains.
SHARE = 0.01


class Stopwatch:
    """Seconds inside some blocks: of the host, or with `on_gpu` of the stream that computes."""

    def __init__(self, *, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._seconds = 0.0
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the block."""
        if self._on_gpu:
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            yield
            last.record()
            self._marks.append((first, last))
            return
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start

    def take(self) -> float:
        """Seconds since the last time; waits for the device."""
        if self._marks:
            torch.cuda.synchronize()
        found = self._seconds + sum(first.elapsed_time(last) for first, last in self._marks) / 1e3
        self._seconds = 0.0
        self._marks.clear()
        return found


class Traffic:
    """Calls, message bytes and seconds of every collective of this process, once `watch` was called.

    Seconds are those for which the step waits: inside a blocking call, and inside `wait` of one that goes on beside.
    """

    def __init__(self, *, on_gpu: bool = False) -> None:
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.waiting = Stopwatch(on_gpu=on_gpu)

    def watch(self) -> None:
        """Wrap the collectives; before DeepSpeed is started, which keeps references to some of them."""
        for name, (place, keyword) in MESSAGES.items():
            setattr(dist, name, self._counting(name, getattr(dist, name), place, keyword))

    def _counting(self, name: str, call: Callable[..., Any], place: int, keyword: str) -> Callable[..., Any]:
        def counting(*values: Any, **named: Any) -> Any:
            message = values[place] if len(values) > place else named[keyword]
            tensors = [message] if isinstance(message, Tensor) else message
            self.calls[name] += 1
            self.bytes[name] += sum(tensor.nbytes for tensor in tensors)
            with self.waiting.running():
                handle = call(*values, **named)
            return None if handle is None else _Handle(handle, self.waiting)

        return counting

    def take(self) -> dict[str, dict[str, int]]:
        """Calls and message bytes since the last time, by collective."""
        found = {name: {"calls": self.calls[name], "bytes": self.bytes[name]} for name in sorted(self.calls)}
        self.calls.clear()
        self.bytes.clear()
        return found


class _Handle:
    """The handle of a collective that goes on beside the caller, whose `wait` is timed."""

    def __init__(self, handle: Any, waiting: Stopwatch) -> None:
        self._handle = handle
        self._waiting = waiting

    def wait(self, *values: Any, **named: Any) -> Any:
        with self._waiting.running():
            return self._handle.wait(*values, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)


def message_bytes(traffic: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Bytes by collective of what `Traffic.take` found, without norms and counts."""
    return {name: entry["bytes"] for name, entry in traffic.items() if entry["bytes"] > LEAST_BYTES}


def messages_agree(seen: Mapping[str, float], expected: Mapping[str, float]) -> bool:
    """Whether the same collectives carry the same bytes but for padding; one that theory has not is a difference."""
    close = all(abs(seen.get(name, 0.0) - size) <= SHARE * size for name, size in expected.items())
    return seen.keys() == expected.keys() and close


def bytes_sent(messages: Mapping[str, float], world_size: int) -> float:
    """Bytes that a ring of ranks sends from each rank for these messages."""
    from engine.footprint import sent

    return sum(sent(name, size, world_size) for name, size in messages.items())
