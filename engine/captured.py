"""Forward and backward replayed as CUDA graphs: the device starts the kernels of a step without the host.

A graph is recorded once for each form of micro batch (`engine.inputs`) and place in the step. It reads a batch of its
own, into which each batch is copied, and all graphs leave their gradients in one place: where those of the first graph
lie, which writes them. The others add to what is there, to zeros if they come first in a step. Gradients are reduced
after the last replay. What is random in a forward comes with the batch, never from a generator of torch's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from engine.compute import Outcome, Plain
from engine.cuda_recorder import CudaRecorder
from engine.ds_engine import reduce_gradients
from engine.errors import StepGraphError
from engine.inputs import fill, form_of, held
from engine.protocols import RunConfig, StepResult, Task
from engine.runtime import Runtime
from engine.watchdog.heartbeat import pulse
from engine.watchdog.phases import Phase

# A form is plain the first times it comes: a rare one is not worth a graph, and kernels are chosen and compiled then.
PLAIN_FIRST = 2
# Each graph takes some MB beside the memory that all of them share.
MOST_GRAPHS = 16
# Forms that are counted; with more of them the one that came longest ago is forgotten.
MOST_COUNTED = 64

Left = TypeVar("Left")


class Recorder(Protocol):
    """Records what a device is to do."""

    def record(self, rehearse: Callable[[], object], work: Callable[[], Left]) -> tuple[Callable[[], None], Left]:
        """Run `rehearse`, then record `work` without effect: what replays it, and what every replay leaves."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """A recorded micro batch; `inputs` are its own batch and statistics, `outcome` is what each replay leaves."""

    inputs: tuple[Any, Any]
    replay: Callable[[], None]
    outcome: Outcome


class Captured(Plain):
    """Replays the micro batches of a step, all or none of them; steps of rare forms are plain."""

    def __init__(self, engine: Any, task: Task, runtime: Runtime, *, recorder: Recorder, insist: bool) -> None:
        super().__init__(engine, task, runtime, reason=None)
        self._recorder = recorder
        self._insist = insist
        self._parameters = [value for value in engine.module.parameters() if value.requires_grad]
        self._gradients: list[Tensor] | None = None
        self._graphs: dict[Hashable, Graph] = {}
        self._counts: dict[Hashable, int] = {}

    def __call__(self, micro_batches: Sequence[Any], statistics: Any) -> list[StepResult]:
        """As a plain step has it: the kernels are the same."""
        inputs = [(batch, statistics) for batch in micro_batches]
        graphs = self._graphs_of(inputs)
        if graphs is None:
            return super().__call__(micro_batches, statistics)
        results: list[StepResult] = []
        for index, (graph, given) in enumerate(zip(graphs, inputs, strict=True)):
            pulse.enter(Phase.FORWARD)
            fill(graph.inputs, given)
            graph.replay()
            # The next replay of any graph may write over it.
            results.append(graph.outcome.clone())
            if index + 1 < len(graphs):
                self._engine.step()
        pulse.enter(Phase.BACKWARD)
        self._point_at(self._gradients)
        reduce_gradients(self._engine, world_size=self._runtime.world_size)
        self.replayed_steps += 1
        return results

    def _graphs_of(self, inputs: Sequence[tuple[Any, Any]]) -> list[Graph] | None:
        """The graphs of a step, recorded now if they are due; None if the step is to be plain."""
        if self.suspended or self._reason is not None:
            return None
        keys = [(form_of(given), index == 0) for index, given in enumerate(inputs)]
        if not self._are_due({key for key in keys if key not in self._graphs}):
            return None
        try:
            for key, given in zip(keys, inputs, strict=True):
                if key not in self._graphs:
                    self._graphs[key] = self._record(given, is_first=key[1])
        except RuntimeError as error:
            self._give_up(error)
            return None
        return [self._graphs[key] for key in keys]

    def _are_due(self, new: set[Hashable]) -> bool:
        for key in new:
            self._counts[key] = self._counts.pop(key, 0) + 1
            if len(self._counts) > MOST_COUNTED:
                del self._counts[next(iter(self._counts))]
        has_room = len(self._graphs) + len(new) <= MOST_GRAPHS
        return has_room and all(self._counts[key] > PLAIN_FIRST for key in new)

    def _record(self, given: tuple[Any, Any], *, is_first: bool) -> Graph:
        inputs = held(given)

        def compute() -> Outcome:
            return self._forward_and_backward(*inputs, reduce=False)

        def rehearse() -> None:
            compute()
            self._point_at(None)

        def write() -> tuple[Outcome, list[Tensor]]:
            outcome = compute()
            return outcome, [_gradient(value) for value in self._parameters]

        def add() -> tuple[Outcome, list[Tensor]]:
            assert self._gradients is not None
            if is_first:
                torch._foreach_zero_(self._gradients)
            self._point_at(self._gradients)
            return compute(), self._gradients

        try:
            work = write if self._gradients is None else add
            replay, (outcome, self._gradients) = self._recorder.record(rehearse, work)
        finally:
            self._point_at(None)
        return Graph(inputs=inputs, replay=replay, outcome=outcome)

    def _point_at(self, gradients: list[Tensor] | None) -> None:
        for index, value in enumerate(self._parameters):
            value.grad = gradients[index] if gradients is not None else None

    def _give_up(self, error: RuntimeError) -> None:
        """Stay plain from here on; StepGraphError if a graph was insisted on."""
        reason = f"recording failed: {' '.join(str(error).split()) or type(error).__name__}"
        if self._insist:
            raise StepGraphError(f"engine.step_graph: always, but {reason}") from error
        self._reason = reason
        self._graphs.clear()
        self._gradients = None
        print(f"warning: rank {self._runtime.rank}: step: {self.live}", file=sys.stderr, flush=True)


def _gradient(parameter: Tensor) -> Tensor:
    # DeepSpeed takes the gradient of a parameter without one for zeros.
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def build_compute(engine: Any, task: Task, config: RunConfig, runtime: Runtime) -> Plain:
    """What runs the micro batches of a run; StepGraphError where a graph is insisted on and cannot be had."""
    wish = config.engine.step_graph
    reason = "engine.step_graph: never" if wish == "never" else why_plain(task, config, runtime.device)
    if reason is not None and wish == "always":
        raise StepGraphError(f"engine.step_graph: always, but {reason}")
    if reason is not None:
        return Plain(engine, task, runtime, reason=reason)
    return Captured(engine, task, runtime, recorder=CudaRecorder(runtime.device), insist=wish == "always")


def why_plain(task: Task, config: RunConfig, device: torch.device) -> str | None:
    """Why the steps of a run cannot be replayed; None if they can."""
    if device.type != "cuda":
        return "no GPU"
    if config.engine.zero_stage > 0:
        return f"ZeRO {config.engine.zero_stage} divides gradients during the backward"
    if task.forward_has_collectives:
        return "ranks add up expert choices during the forward"
    if torch.is_anomaly_enabled():
        return "anomaly detection looks at single ops"
    return None
