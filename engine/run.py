"""One run from its start to its end: wrap the model, continue what is in the run folder, train, evaluate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.agreement import require_shared
from engine.captured import build_compute
from engine.checkpoint import Checkpoints
from engine.diagnosis import Diagnosis
from engine.drift import run_settings
from engine.ds_config import build_ds_config
from engine.ds_engine import build_engine
from engine.ema import MovingAverage
from engine.loop import Training
from engine.protocols import Batches, RunConfig, Task
from engine.run_folder import METRICS, RunFolder, cut_metrics
from engine.runtime import Runtime, say
from engine.schedule import Schedule, build_schedule
from engine.step_guard import StepGuard
from engine.stop import StopRequest
from engine.telemetry import Telemetry, describe_environment
from engine.watchdog.heartbeat import pulse
from engine.watchdog.node import FAILURE
from engine.watchdog.phases import Phase
from kernels.bench.machine import source_commit

BACKENDS = "backends.json"
# Written at the very end and removed at the start: launchers may exit with 0 although a run was cut short.
FINISHED = "finished.json"
# A failed run gives the checkpoint it is still writing so long; the launcher kills a node's ranks after 30 s.
LINGER_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """How automatic choices are read and replayed, so that a continued run computes as the first one did."""

    read: Callable[[], dict[str, str]]
    replay: Callable[[dict[str, str]], None]


def execute(
    task: Task,
    batches: Batches,
    config: RunConfig,
    *,
    runtime: Runtime,
    stop: StopRequest,
    folder: RunFolder,
    source: Path | None,
    choices: Choices,
    save_config: Callable[[Path], None],
) -> bool:
    """Train `task` on `batches` from `source` (None: from step 0); True when done, False when stopped on request.

    The run folder is not written to before the state to continue from has been loaded.
    """
    require_shared(runtime, folder.path)
    if source is not None:
        choices.replay(folder.read_json(BACKENDS) or {})
    engine, state = build_engine(task, config, runtime)
    compute = build_compute(engine, task, config, runtime)
    average = MovingAverage(state, config.optim.ema)
    checkpoints = Checkpoints(
        folder.path / "checkpoints",
        runtime=runtime,
        task=task,
        state=state,
        average=average,
        settings=run_settings(config, batches, runtime.world_size),
        policy=config.engine,
        commit=source_commit() if runtime.rank == 0 else None,
    )
    start, counters = _load(checkpoints, runtime, batches, source)
    with runtime.together("writing to the run folder"):
        if runtime.rank == 0:
            save_config(folder.path / "config.yaml")
        telemetry = _open_telemetry(folder, config, runtime, batches, source=source, start=start, counters=counters)
    training = Training(
        engine=engine,
        task=task,
        batches=batches,
        compute=compute,
        runtime=runtime,
        settings=config.engine,
        schedule=_build_schedule(config, batches),
        average=average,
        guard=_build_guard(Diagnosis(engine, task, config, runtime, save_config), average, telemetry),
        checkpoints=checkpoints,
        telemetry=telemetry,
        stop=stop,
        note_choices=lambda: folder.write_json(BACKENDS, {**choices.read(), "step": compute.live}),
        still_ours=folder.check,
    )
    done = _train(training, start)
    _finish(training, folder, done=done)
    return done


def _load(
    checkpoints: Checkpoints, runtime: Runtime, batches: Batches, source: Path | None
) -> tuple[int, dict[str, int]]:
    """First step and counters of this run."""
    if source is None:
        say(runtime, f"starting at step 0 of {batches.total_steps}")
        return 0, {}
    pulse.enter(Phase.LOAD)
    return checkpoints.load(source)


def _build_schedule(config: RunConfig, batches: Batches) -> Schedule:
    samples = sum(batches.samples_per_step.values())
    return build_schedule(config.optim, samples_per_step=samples, total_steps=batches.total_steps)


def _build_guard(diagnosis: Diagnosis, average: MovingAverage, telemetry: Telemetry) -> StepGuard:
    return StepGuard(
        diagnosis.engine,
        runtime=diagnosis.runtime,
        most_skipped=diagnosis.config.engine.skip_nonfinite,
        diagnose=diagnosis,
        on_good=average.update,
        on_bad=telemetry.skipped,
    )


def _train(training: Training, start: int) -> bool:
    """Run the loop and see its last checkpoint published; a run that fails also lets the one under way come out."""
    say(training.runtime, f"step: {training.compute.live}")
    try:
        done = training.run(start)
        pulse.enter(Phase.SAVE)
        training.checkpoints.wait()
    except BaseException:
        training.checkpoints.linger(LINGER_SECONDS)
        raise
    training.telemetry.close()
    return done


def _finish(training: Training, folder: RunFolder, *, done: bool) -> None:
    runtime = training.runtime
    if not done:
        say(runtime, f"stopped on request; the same command continues from {folder.path}")
        return
    training.finish(folder.path)
    with runtime.together("writing to the run folder"):
        if runtime.rank == 0:
            folder.write_json(FINISHED, {"step": training.batches.total_steps, "world_size": runtime.world_size})
    say(runtime, f"done after step {training.batches.total_steps}: {folder.path}")


def _open_telemetry(
    folder: RunFolder,
    config: RunConfig,
    runtime: Runtime,
    batches: Batches,
    *,
    source: Path | None,
    start: int,
    counters: dict[str, int],
) -> Telemetry:
    """Write what describes this process and continue metrics.jsonl at step `start`, from nothing without `source`."""
    if runtime.rank == 0:
        if source is None:
            folder.clear()
        (folder.path / FAILURE).unlink(missing_ok=True)
        (folder.path / FINISHED).unlink(missing_ok=True)
        cut_metrics(folder.path / METRICS, start)
        folder.write_json("env.json", describe_environment(runtime))
        folder.write_json("ds_config.json", build_ds_config(config, runtime.world_size))
    return Telemetry(
        folder.path / METRICS,
        runtime=runtime,
        samples_per_step=sum(batches.samples_per_step.values()),
        total_steps=batches.total_steps,
        log_every=config.engine.log_every,
        counters=counters,
    )
