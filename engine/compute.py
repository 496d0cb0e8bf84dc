"""Forward and backward of a step's micro batches, as the task has written them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from engine.ds_engine import backward
from engine.protocols import StepResult, Task
from engine.runtime import Runtime
from engine.watchdog.heartbeat import pulse
from engine.watchdog.phases import Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A `StepResult` without the autograd graph behind it."""

    loss: Tensor
    parts: dict[str, Tensor]
    metrics: dict[str, Tensor]

    def clone(self) -> Outcome:
        """A copy in memory of its own."""
        parts, metrics = ({name: value.clone() for name, value in each.items()} for each in (self.parts, self.metrics))
        return Outcome(loss=self.loss.clone(), parts=parts, metrics=metrics)


class Plain:
    """Runs micro batches one after the other; `reason` says why no graph of them is replayed."""

    def __init__(self, engine: Any, task: Task, runtime: Runtime, *, reason: str | None) -> None:
        self._engine = engine
        self._task = task
        self._runtime = runtime
        self._reason = reason
        # Plain for now, as a profiler wants it that looks into a step.
        self.suspended = False
        self.replayed_steps = 0

    @property
    def live(self) -> str:
        """How steps run, for a reader: "graph" or "plain" with the reason."""
        return "graph" if self._reason is None else f"plain ({self._reason})"

    def __call__(self, micro_batches: Sequence[Any], statistics: Any) -> list[StepResult]:
        """Results of all micro batches of a step; afterwards its gradients are summed over ranks and ready to use."""
        results: list[StepResult] = []
        for index, batch in enumerate(micro_batches):
            results.append(self._forward_and_backward(batch, statistics))
            if index + 1 < len(micro_batches):
                self._engine.step()
        return results

    def _forward_and_backward(self, batch: Any, statistics: Any, *, reduce: bool = True) -> Outcome:
        pulse.enter(Phase.FORWARD)
        result = self._task.forward(self._engine, batch, statistics)
        pulse.enter(Phase.BACKWARD)
        backward(self._engine, result, world_size=self._runtime.world_size, reduce=reduce)
        return Outcome(loss=result.loss.detach(), parts=result.parts, metrics=result.metrics)
