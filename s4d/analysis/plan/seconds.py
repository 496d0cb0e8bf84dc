"""Seconds of one optimizer step: the floor of each part, what it is likely to take, messages, and what limits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kernels.bench.floors import roofline_seconds
from s4d.analysis.plan.activations import MicroBatch
from s4d.analysis.plan.gpus import Rates
from s4d.analysis.plan.recipe import Recipe
from s4d.analysis.step_work import PARTS, PartWork, step_work

# Share of its floor's rate that each part is taken to reach, until a profile says it. Floors fuse all element-wise work
# into the products beside it, which a real step does only in part.
ASSUMED_SHARES: Mapping[str, float] = {
    "embed": 0.40,
    "encoder attention": 0.45,
    "encoder linear": 0.55,
    "moae": 0.35,
    "decoder attention": 0.40,
    "decoder linear": 0.50,
    "head and loss": 0.50,
    "optimizer": 0.75,
}
# Kernels that a block starts forward and backward where nothing is compiled or captured, and what a start takes the
# host. Less work than that, and the device waits for the host.
LAUNCHES_PER_BLOCK, LAUNCH_SECONDS = 70, 6e-6
# A message of no size, and an update in host memory with the copies there and back (fp32 weight, moments, gradient).
MESSAGE_SECONDS, HOST_RATE = 30e-6, 40e9
ELEMENT_BYTES = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Rates of a rank, and the share of its floor's rate that each part reaches: assumed, or of a profile."""

    rates: Rates
    shares: Mapping[str, float]
    launch_seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What an optimizer step adds on one rank: bytes that AdamW moves, and whether on the host; bytes of its messages
    by collective, those that a ring sends for them, and about how many messages there are."""

    moved: float
    on_host: bool
    messages: Mapping[str, float]
    sent: float
    calls: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """Seconds of one optimizer step: `floor` and `projected` by part, and what the projected step is bound by."""

    floor: Mapping[str, float]
    projected: Mapping[str, float]
    bound: Mapping[str, float]
    flops: float

    @property
    def floor_seconds(self) -> float:
        """Least time of the whole step."""
        return sum(self.floor.values())

    @property
    def seconds(self) -> float:
        """Projected time of the whole step."""
        return sum(self.projected.values())


def micro_work(recipe: Recipe, batch: MicroBatch) -> dict[str, PartWork]:
    """Work of one micro batch by part."""
    return step_work(
        recipe.arch,
        recipe.task,
        batch.samples,
        batch.kept,
        decoded=batch.decoded,
        element_bytes=ELEMENT_BYTES[recipe.precision],
        classes=recipe.classes,
    )


def step_time(recipe: Recipe, batch: MicroBatch, accumulation: int, update: Update, speed: Speed) -> StepTime:
    """Of `accumulation` micro batches on each rank and one update; messages wait for nothing and nothing for them.

    Counting the experts' choices of a step ahead takes another forward of each micro batch where there are several.
    Layers that keep nothing for the backward take another forward as a whole.
    """
    work = micro_work(recipe, batch)
    ceiling = {"flops": speed.rates.flops, "bytes": speed.rates.memory}
    forwards = 2 if recipe.counted_twice and accumulation > 1 else 1
    again = _again(recipe)
    floor: dict[str, float] = {}
    projected: dict[str, float] = {}
    bound = dict.fromkeys(("compute", "memory bandwidth", "kernel launches", "network", "host"), 0.0)
    for name in PARTS:
        for phase, times in ((work[name].forward, forwards + again.get(name, 0.0)), (work[name].backward, 1)):
            least = accumulation * times * roofline_seconds((phase,), ceiling)
            floor[name] = floor.get(name, 0.0) + least
            projected[name] = projected.get(name, 0.0) + least / speed.shares[name]
            by = "compute" if phase.flops / ceiling["flops"] > phase.bytes / ceiling["bytes"] else "memory bandwidth"
            bound[by] += least / speed.shares[name]
    starts = _launch_seconds(recipe, speed, forwards + len(recipe.recomputed) / recipe.layers)
    waits = max(0.0, accumulation * starts - sum(projected.values()))
    floor["optimizer"] = update.moved / (HOST_RATE if update.on_host else speed.rates.memory)
    projected["optimizer"] = floor["optimizer"] / speed.shares["optimizer"]
    bound["host" if update.on_host else "memory bandwidth"] += projected["optimizer"]
    floor["communication"] = update.sent / speed.rates.link
    projected["communication"] = floor["communication"] + MESSAGE_SECONDS * update.calls
    bound["network"] += projected["communication"]
    projected["idle"] = bound["kernel launches"] = waits
    flops = accumulation * sum(
        (forwards + again.get(name, 0.0)) * part.forward.flops + part.backward.flops for name, part in work.items()
    )
    return StepTime(floor=floor, projected=projected, bound=bound, flops=flops)


def _again(recipe: Recipe) -> dict[str, float]:
    """Share of each part's forward that is done again in the backward."""
    arch, again = recipe.arch, recipe.recomputed
    encoder = sum(layer < arch.depth for layer in again) / arch.depth
    shares = {"encoder attention": encoder, "encoder linear": encoder}
    if recipe.task == "pretrain":
        decoder = sum(layer >= arch.depth for layer in again) / arch.decoder_depth
        shares |= {"decoder attention": decoder, "decoder linear": decoder}
    elif arch.experts is not None:
        shares["moae"] = len(again.intersection(arch.experts.layers)) / len(arch.experts.layers)
    return shares


def _launch_seconds(recipe: Recipe, speed: Speed, forwards: float) -> float:
    """Host time of one micro batch's kernels; a forward starts a third of them."""
    if speed.launch_seconds is not None:
        return speed.launch_seconds
    return LAUNCH_SECONDS * LAUNCHES_PER_BLOCK * recipe.layers * (1 + (forwards - 1) / 3)
