"""The ways to run a recipe on a cluster, what each takes, and the one to choose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from s4d.analysis.plan.activations import Activations, MicroBatch, activations
from s4d.analysis.plan.recipe import Recipe, StepKind
from s4d.analysis.plan.seconds import ELEMENT_BYTES, Speed, StepTime, Update, step_time
from s4d.analysis.plan.stream import Backends
from s4d.errors import UsageError

STAGES = (0, 1, 2, 3)
# What the CUDA context, NCCL's buffers and the libraries' workspaces take, and what the allocator's blocks waste of
# activations.
FIXED_BYTES, WASTE = 2 << 30, 0.05
# The batch in training, and the next one on its way to the device.
BATCHES = 2
INT64 = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Of a rank at one stage and accumulation: bytes on its GPU by purpose, those that come and go beside activations
    and in the update, and the update itself."""

    held: Mapping[str, float]
    backward: float
    on_update: float
    update: Update


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One stage with one accumulation: memory by purpose, and the time of each kind of step."""

    stage: int
    accumulation: int
    micro: Mapping[str, int]
    memory: Mapping[str, float]
    peak: float
    fits: bool
    messages: Mapping[str, float]
    sent: float
    times: tuple[StepTime, ...]
    kinds: tuple[StepKind, ...]

    @property
    def step_seconds(self) -> float:
        """Mean projected seconds of a step over the run."""
        return self._mean([time.seconds for time in self.times])

    @property
    def floor_seconds(self) -> float:
        """Mean least seconds of a step over the run."""
        return self._mean([time.floor_seconds for time in self.times])

    def bound(self) -> dict[str, float]:
        """Seconds of the mean step by what they are bound by."""
        return {name: self._mean([time.bound[name] for time in self.times]) for name in self.times[0].bound}

    def parts(self) -> dict[str, tuple[float, float]]:
        """Floor and projected seconds of the mean step by part."""
        return {
            name: (
                self._mean([time.floor.get(name, 0.0) for time in self.times]),
                self._mean([time.projected[name] for time in self.times]),
            )
            for name in self.times[0].projected
        }

    def rate(self, modality: str) -> float:
        """Samples of a modality per second over the run, on all ranks."""
        return self._mean([kind.samples.get(modality, 0) for kind in self.kinds]) / self.step_seconds

    def _mean(self, values: Sequence[float]) -> float:
        counts = [kind.steps or 0 for kind in self.kinds]
        weights = counts if sum(counts) else [1] * len(counts)
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def ways(
    recipe: Recipe,
    state: Callable[[int, int], State | None],
    speed: Speed,
    *,
    world_size: int,
    memory: float,
    backends: Backends,
    drop_path: bool,
) -> list[Way]:
    """Of every stage the way with the largest micro batch that fits, else its smallest, which does not.

    `state` gives what a stage holds at an accumulation, None for a stage that cannot run.
    """
    divisors = _accumulations(recipe, world_size)
    found = []
    for stage in STAGES:
        for accumulation in divisors:
            held = state(stage, accumulation)
            if held is None:
                break
            way = _way(
                recipe,
                held,
                speed,
                stage=stage,
                accumulation=accumulation,
                world_size=world_size,
                memory=memory,
                peaks=_peaks(recipe, accumulation * world_size, backends, drop_path),
            )
            if way.fits or accumulation == divisors[-1]:
                found.append(way)
                break
    return found


def choose(found: list[Way]) -> Way | None:
    """The fastest way that fits, of equals the one with the least ZeRO; None if nothing fits."""
    fitting = [way for way in found if way.fits]
    return min(fitting, key=lambda way: (round(way.step_seconds, 6), way.stage), default=None)


def micro_batch(recipe: Recipe, kind: StepKind, parts: int) -> MicroBatch:
    """What one of `parts` equal parts of a step holds."""
    samples = {name: count // parts for name, count in kind.samples.items()}
    return MicroBatch(samples=samples, kept=recipe.kept, decoded=recipe.decoded)


def _accumulations(recipe: Recipe, world_size: int) -> list[int]:
    """Numbers of micro steps that divide every source's quota, in pairs where samples are mixed; least first."""
    unit = world_size * (2 if recipe.mixed else 1)
    for source, quota in recipe.quotas.items():
        if quota % unit:
            pairs = ", in pairs for mixup" if recipe.mixed else ""
            raise UsageError(
                f"batch.per_step.{source}: {quota} views do not divide over {world_size} GPUs{pairs}; "
                f"use a multiple of {unit}"
            )
    least = min(recipe.quotas.values()) // unit
    return [n for n in range(1, least + 1) if all(quota % (unit * n) == 0 for quota in recipe.quotas.values())]


def _peaks(recipe: Recipe, parts: int, backends: Backends, drop_path: bool) -> tuple[Activations, ...]:
    return tuple(
        activations(
            recipe.arch,
            recipe.task,
            micro_batch(recipe, kind, parts),
            backends=backends,
            element_bytes=ELEMENT_BYTES[recipe.precision],
            drop_path=drop_path,
            recomputed=recipe.recomputed,
        )
        for kind in recipe.kinds
    )


def _way(
    recipe: Recipe,
    state: State,
    speed: Speed,
    *,
    stage: int,
    accumulation: int,
    world_size: int,
    memory: float,
    peaks: tuple[Activations, ...],
) -> Way:
    parts = accumulation * world_size
    batches = [micro_batch(recipe, kind, parts) for kind in recipe.kinds]
    active = (1 + WASTE) * max(peak.peak for peak in peaks)
    rows = {
        **state.held,
        "activations": active,
        "batches": BATCHES * max(_batch_bytes(recipe, batch) for batch in batches),
        "reduction": state.backward,
        "fixed": float(FIXED_BYTES),
    }
    # The update's copies come when activations and buckets of the backward are gone.
    within = max(active + state.backward, state.on_update)
    peak = sum(rows.values()) - active - state.backward + within
    times = tuple(step_time(recipe, batch, accumulation, state.update, speed) for batch in batches)
    micro: dict[str, int] = {}
    for batch in batches:
        micro |= batch.samples
    return Way(
        stage=stage,
        accumulation=accumulation,
        micro=micro,
        memory=rows,
        peak=peak,
        fits=peak <= memory,
        messages=state.update.messages,
        sent=state.update.sent,
        times=times,
        kinds=recipe.kinds,
    )


def _batch_bytes(recipe: Recipe, batch: MicroBatch) -> float:
    """Pixels as they are decoded, and the token table: position and index of every token."""
    arch, total = recipe.arch, 0.0
    for name, count, _, tokens in batch.runs(arch):
        frames = 1 if name == "image" else arch.num_frames
        total += count * (3.0 * frames * arch.image_size**2 + 2 * INT64 * tokens)
    return total


def as_document(way: Way) -> dict[str, object]:
    """For JSON: seconds, bytes and rates."""
    return {
        "zero_stage": way.stage,
        "accumulation": way.accumulation,
        "micro_batch": dict(way.micro),
        "fits": way.fits,
        "peak_bytes": way.peak,
        "memory": dict(way.memory),
        "messages": dict(way.messages),
        "sent_bytes": way.sent,
        "step_seconds": way.step_seconds,
        "floor_seconds": way.floor_seconds,
        "images_per_second": way.rate("image"),
        "clips_per_second": way.rate("video"),
        "bound_seconds": way.bound(),
        "kinds": [
            {"samples": dict(kind.samples), "steps": kind.steps, **dataclasses.asdict(time)}
            for kind, time in zip(way.kinds, way.times, strict=True)
        ],
    }
