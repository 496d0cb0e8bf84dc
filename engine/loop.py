"""The training loop: verbs only. What is switched off is an object that does nothing, built in `train.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.checkpoint import Checkpoints
from engine.compute import Plain
from engine.ema import MovingAverage
from engine.protocols import Batches, EngineSettings, StepResult, Task
from engine.runtime import Runtime
from engine.schedule import Schedule
from engine.step_guard import StepGuard
from engine.stop import StopRequest
from engine.telemetry import Telemetry
from engine.watchdog.heartbeat import pulse
from engine.watchdog.phases import Phase

STOP = 1 << 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Everything the loop calls, already built; the only state that moves in it is the step number."""

    engine: Any
    task: Task
    batches: Batches
    compute: Plain
    runtime: Runtime
    settings: EngineSettings
    schedule: Schedule
    average: MovingAverage
    guard: StepGuard
    checkpoints: Checkpoints
    telemetry: Telemetry
    stop: StopRequest
    note_choices: Callable[[], None]
    still_ours: Callable[[], None]

    def run(self, start: int) -> bool:
        """Train from step `start` to the end; True when done, False when stopped early on request, both saved."""
        stream = self.batches.steps(start)
        for step in range(start, self.batches.total_steps):
            self.checkpoints.settle()
            pulse.enter(Phase.DATA, step + 1)
            micro_batches = self.next_batches(stream)
            if micro_batches is None:
                self.save(step)
                return False
            lr = self.schedule.apply(step, self.engine.basic_optimizer.param_groups)
            results, grad_norm = self.optimizer_step(step + 1, micro_batches)
            self.still_ours()
            self.telemetry.observe(step + 1, results, lr=lr, grad_norm=grad_norm, counts=self.batches.counters())
            self.evaluate(step + 1)
            if self.is_save_step(step + 1) or self.guard.owes_save:
                self.save(step + 1)
        self.guard.finish()
        return True

    def next_batches(self, stream: Iterator[list[Any]]) -> list[Any] | None:
        """Micro batches of the next step on the device; None, on all ranks alike, if any rank wants to stop.

        An error in reading data is agreed on here too, so that no rank waits in a collective for one that failed.
        """
        begin = time.perf_counter()
        error: Exception | None = None
        try:
            self.still_ours()
            micro_batches = next(stream)
        except Exception as caught:
            error = caught
        self.telemetry.waited(time.perf_counter() - begin)
        # A request to stop may also reach the data workers; what fails because of that is no failure.
        agreed = self.runtime.agree(STOP if self.stop.requested else self.runtime.verdict(error))
        if agreed == STOP:
            return None
        self.runtime.raise_first(error, agreed, "reading its data")
        return [batch.to(self.runtime.device) for batch in micro_batches]

    def optimizer_step(self, step: int, micro_batches: list[Any]) -> tuple[list[StepResult], float | Tensor]:
        """Forward and backward of every micro batch, then one update; returns their results and the gradient norm."""
        pulse.enter(Phase.FORWARD)
        results = self.compute(micro_batches, self.task.begin_step(self.engine, micro_batches))
        pulse.enter(Phase.STEP)
        self.checkpoints.hold_updates()
        return results, self.guard.update(step, micro_batches, results)

    def evaluate(self, step: int) -> None:
        """Score the held-out split with the current weights every `eval_every` steps."""
        every = self.settings.eval_every
        if every and step % every == 0:
            pulse.enter(Phase.EVALUATE)
            scores = self.task.evaluate(self.engine, "val")
            self.still_ours()
            self.telemetry.scores(step, scores)
            self.checkpoints.scored(step, scores)

    def is_save_step(self, step: int) -> bool:
        """True every `save_every` steps and at the end."""
        every = self.settings.save_every
        return step == self.batches.total_steps or bool(every and step % every == 0)

    def save(self, step: int) -> None:
        """Begin a checkpoint, unless the last step was not finite; it is published after the metrics that led to it."""
        pulse.enter(Phase.SAVE)
        if not self.guard.may_save(step):
            return
        begin = time.perf_counter()
        self.checkpoints.save(step, counters=self.telemetry.counters(), before=self.record)
        self.telemetry.saved(time.perf_counter() - begin)

    def record(self) -> None:
        """Put on the disk what must be there before a checkpoint; called beside the training."""
        self.still_ours()
        self.telemetry.flush()
        self.note_choices()

    def finish(self, run_dir: Path) -> None:
        """Let the task evaluate the last weights and, if an average is kept, the averaged ones, and tell the scores."""
        pulse.enter(Phase.FINISH)
        self.still_ours()
        self.telemetry.tell("at the end", self.task.finish(self.engine, run_dir, "last"))
        self.checkpoints.describe_again(self.batches.total_steps)
        if self.average.active:
            with self.average.swapped():
                self.telemetry.tell("with averaged weights", self.task.finish(self.engine, run_dir, "ema"))
