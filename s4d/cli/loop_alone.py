"""The training loop without a run: its own engine, guard, schedule and average, but nothing that writes or resumes."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

from engine.captured import build_compute
from engine.ds_engine import build_engine
from engine.ema import MovingAverage
from engine.loop import Training
from engine.master_state import MasterState
from engine.runtime import Runtime
from engine.schedule import build_schedule
from engine.step_guard import StepGuard
from engine.stop import StopRequest
from s4d.config import Config
from s4d.errors import DataError

Loop = TypeVar("Loop", bound=Training)


class Silent:
    """Stands where the loop has something to write to, and takes every call."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def loop_alone(
    kind: type[Loop], config: Config, task: Any, batches: Any, runtime: Runtime, telemetry: Any
) -> tuple[Loop, MasterState]:
    """A loop over `batches`, whose end of each step `telemetry.observe` is told, and the state behind its engine.

    DataError in a step that is not finite.
    """
    engine, state = build_engine(task, config, runtime)
    average = MovingAverage(state, config.optim.ema)
    loop = kind(
        engine=engine,
        task=task,
        batches=batches,
        compute=build_compute(engine, task, config, runtime),
        runtime=runtime,
        settings=config.engine,
        schedule=build_schedule(
            config.optim, samples_per_step=sum(batches.samples_per_step.values()), total_steps=batches.total_steps
        ),
        average=average,
        guard=StepGuard(
            engine, runtime=runtime, most_skipped=0, diagnose=_refuse, on_good=average.update, on_bad=_refuse
        ),
        checkpoints=Silent(),  # type: ignore[arg-type]
        telemetry=telemetry,
        stop=StopRequest(),
        note_choices=_nothing,
        still_ours=_nothing,
    )
    return loop, state


def _nothing() -> None:
    return


def _refuse(*_: object, **__: object) -> NoReturn:
    raise DataError("a step of the run that is measured is not finite")
