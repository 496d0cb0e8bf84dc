"""Runs the steps that `s4d profile step` looks at: the engine's own loop, one rank, nothing written.

In turn: warm-up; steps as they are, for the rates; steps under the profiler, for the split; one with stacks and every
allocation, for the places where the host waits. The last two never replay graphs, in which nothing can be told apart.
What the loop tells its telemetry is the clock.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import typer
from torch.profiler import ProfilerActivity, profile, record_function

from engine.loop import Training
from engine.runtime import Runtime
from kernels.bench.memory import quiet_stderr
from kernels.launch import recording
from s4d.analysis.step_profile.load import Load, batch_load
from s4d.analysis.step_profile.marks import PREFIX, STEP, Marks, deepspeed_calls, marked_calls, marked_model
from s4d.analysis.step_profile.trace import Trace, read_trace
from s4d.cli.loop_alone import Silent, loop_alone
from s4d.config import Config

# Steps of each kind. The first of ZeRO 3 records the order of the modules; allocators and choices of backends settle;
# graphs are recorded in the third.
WARM = 3
PROFILED = 2
EMPTY = Trace(spans=(), work=(), allocations=())


def tell(line: str) -> None:
    """Progress, beside the results."""
    typer.echo(line, err=True)


def warm_steps(config: Config) -> int:
    """Steps before anything is measured."""
    kinds = {source.modality for source in config.data.sources} if config.batch.batching == "alternate" else {"packed"}
    return WARM * len(kinds)


def steps_in_all(config: Config, steps: int) -> int:
    """Steps of a profile that measures `steps` undisturbed ones: warm-up, these, settling, profiled, stacks."""
    return warm_steps(config) + steps + 1 + PROFILED + 1


@dataclass(kw_only=True)
class Found:
    """What was measured; times in seconds, memory in bytes. `loads` has the micro batches of each step.

    `live` says how the undisturbed steps ran, `replayed_steps` how many of them were replayed.
    """

    step_seconds: float = 0.0
    all_steps: list[float] = field(default_factory=list)
    trace: Trace = EMPTY
    stacks: Trace = EMPTY
    loads: list[list[Load]] = field(default_factory=list)
    triton: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    live: str = ""
    replayed_steps: int = 0


class Watched:
    """The run's batches: waiting for one is marked, and what it holds is noted."""

    def __init__(self, batches: Any, marks: Marks, load_of: Any) -> None:
        self._batches = batches
        self._marks = marks
        self._load_of = load_of
        # Counted once for each layout, so that counting takes no time of the steps.
        self._known: dict[Any, Load] = {}
        self.loads: list[list[Load]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    def steps(self, start: int) -> Iterator[list[Any]]:
        """The steps from `start` on."""
        stream = self._batches.steps(start)
        while True:
            with self._marks.inside("data wait"):
                step = next(stream, None)
            if step is None:
                return
            self.loads.append([self._load(batch) for batch in step])
            yield step

    def _load(self, batch: Any) -> Load:
        key = batch.layout, batch.layout_visible, tuple(group.modality for group in batch.groups)
        if key not in self._known:
            self._known[key] = self._load_of(batch)
        return self._known[key]


class MarkedTraining(Training):
    """The loop with its two halves marked; what lies deeper is marked where it is called."""

    __slots__ = ()
    marks = Marks()

    def next_batches(self, stream: Iterator[list[Any]]) -> list[Any] | None:
        """As the loop has it."""
        with self.marks.inside("host to device"):
            return Training.next_batches(self, stream)

    def optimizer_step(self, step: int, micro_batches: list[Any]) -> Any:
        """As the loop has it."""
        with self.marks.inside("optimizer"):
            return Training.optimizer_step(self, step, micro_batches)


class Clock(Silent):
    """Stands for the telemetry, which hears of every step: moves the passes on."""

    def __init__(self, passes: Generator[None, None, None]) -> None:
        self._passes = passes
        next(passes)

    def observe(self, *_: Any, **__: Any) -> None:
        """A step is over."""
        next(self._passes, None)

    def skipped(self, step: int, reason: str) -> None:
        """Never called: the guard allows no skipped step."""


@dataclass(kw_only=True)
class Session:
    """One profile: what runs, and where results are kept meanwhile."""

    config: Config
    task: Any
    batches: Any
    runtime: Runtime
    steps: int
    folder: Path
    snapshot: Path | None = None
    compute: Any = None

    def run(self) -> Found:
        """All passes."""
        marks = MarkedTraining.marks
        arch, task = self.task.arch, self.config.task
        classes = sum(len(names) for names in getattr(self.task, "classes", {}).values())
        precision = self.config.engine.precision
        watched = Watched(self.batches, marks, lambda batch: batch_load(arch, task, precision, classes, batch))
        found = Found()
        clock = Clock(self._passes(marks, found))
        training, state = loop_alone(MarkedTraining, self.config, self.task, watched, self.runtime, clock)
        self.compute = training.compute
        found.parameters = sum(torch.Size(shape).numel() for shape in state.shapes.values())
        calls = [*deepspeed_calls(training.engine), (self.task, "forward", "head and loss")]
        with marked_model(self.task.module, marks), marked_calls(calls, marks):
            training.run(0)
        found.loads = watched.loads[warm_steps(self.config) :][: self.steps]
        return found

    def _passes(self, marks: Marks, found: Found) -> Generator[None, None, None]:
        warm = warm_steps(self.config)
        tell(f"{warm} steps to warm up")
        for _ in range(warm):
            yield
        tell(f"{self.steps} steps undisturbed")
        yield from self._undisturbed(found)
        tell(f"{1 + PROFILED} steps under the profiler, then one with stacks")
        with self._profiled(self.folder / "trace.json", marks, stacks=False):
            yield
            self._wait()
            for number in range(PROFILED):
                with record_function(PREFIX + STEP):
                    yield
                    if number + 1 == PROFILED:
                        self._wait()
        with ExitStack() as stack:
            stack.enter_context(self._profiled(self.folder / "stacks.json", marks, stacks=True))
            launches = stack.enter_context(recording())
            if self.snapshot is not None:
                stack.enter_context(_recorded_memory(self.snapshot))
            with record_function(PREFIX + STEP):
                yield
            for launch in launches:
                found.triton[launch.name] = found.triton.get(launch.name, 0) + 1
            launches.clear()
        found.trace, found.stacks = (read_trace(self.folder / name) for name in ("trace.json", "stacks.json"))

    def _undisturbed(self, found: Found) -> Generator[None, None, None]:
        on_gpu = self.runtime.device.type == "cuda"
        self._wait()
        if on_gpu:
            found.memory["between_steps"] = torch.cuda.memory_allocated(self.runtime.device)
            torch.cuda.reset_peak_memory_stats(self.runtime.device)
        before, times = self.compute.replayed_steps, [time.perf_counter()]
        for _ in range(self.steps):
            yield
            times.append(time.perf_counter())
        self._wait()
        found.step_seconds = (time.perf_counter() - times[0]) / self.steps
        found.all_steps = [end - start for start, end in pairwise(times)]
        found.live, found.replayed_steps = self.compute.live, self.compute.replayed_steps - before
        self.compute.suspended = True
        if on_gpu:
            found.memory["peak_allocated"] = torch.cuda.max_memory_allocated(self.runtime.device)
            found.memory["peak_reserved"] = torch.cuda.max_memory_reserved(self.runtime.device)

    @contextmanager
    def _profiled(self, path: Path, marks: Marks, *, stacks: bool) -> Iterator[None]:
        activities = [ProfilerActivity.CPU]
        if self.runtime.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        record = profile(activities=activities, with_stack=stacks, profile_memory=stacks)
        with quiet_stderr():
            record.start()
        marks.active = True
        try:
            yield
        finally:
            marks.active = False
            self._wait()
            with quiet_stderr():
                record.stop()
        record.export_chrome_trace(str(path))

    def _wait(self) -> None:
        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize(self.runtime.device)


@contextmanager
def _recorded_memory(target: Path) -> Iterator[None]:
    """Keep every allocation of the CUDA allocator with its stack, and write them at the end."""
    torch.cuda.memory._record_memory_history()
    try:
        yield
        torch.cuda.memory._dump_snapshot(str(target))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)


def profile_steps(
    config: Config, task: Any, batches: Any, runtime: Runtime, *, steps: int, keep: Sequence[Path | None]
) -> tuple[Found, list[bytes | None]]:
    """Run the passes; `keep` are the wishes for the trace and the memory snapshot, whose contents come back."""
    with tempfile.TemporaryDirectory(prefix="s4d-profile-") as name:
        folder = Path(name)
        snapshot = folder / "memory.pickle" if keep[1] is not None else None
        session = Session(
            config=config, task=task, batches=batches, runtime=runtime, steps=steps, folder=folder, snapshot=snapshot
        )
        found = session.run()
        files = [folder / "trace.json" if keep[0] is not None else None, snapshot]
        return found, [file.read_bytes() if file is not None else None for file in files]
