"""What a rank holds and sends at every ZeRO stage, as a function of the sizes of the weights: DeepSpeed 0.19 as it is.

P is the number of trainable weights, N the number of ranks, w the bytes of a weight the model computes with (4 in fp32,
2 in bf16). fp32 weights for AdamW ("masters"), its two moments and the moving average are always fp32, and gradients
are summed over ranks in fp32. Padding of flat tensors to the number of ranks is left out. `s4d bench zero` compares
all of it with measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine.ds_config import REDUCE_BUCKET
from engine.master_state import BUCKET_ELEMENTS

FP32 = 4
# Weights of at most so many elements stay whole on every rank at stage 3 (DeepSpeed's default).
PERSISTENT_NUMEL = 100_000
# Elements of a message of gradients at stage 1 in bf16, and of weights that stage 3 fetches ahead, as DeepSpeed has it.
ALLREDUCE_BUCKET, PREFETCH_BUCKET = 500_000_000, 50_000_000
# Bytes that a ring sends from each rank, over the message: reduce-scatter and all-gather, or one of the two.
RING_ROUNDS = {"all_reduce": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """How a run is spread out; `offload` as in the configuration, `on_cpu` if ranks compute on CPUs."""

    stage: int
    world_size: int
    precision: str
    offload: str = "none"
    accumulation: int = 1
    has_average: bool = True
    on_cpu: bool = False

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight that the model computes with."""
        return FP32 if self.precision == "fp32" else 2

    @property
    def rounds_itself(self) -> bool:
        """Whether the model holds fp32 weights and rounds them in each forward, see `engine.half`."""
        return self.stage == 0 and self.precision == "bf16"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes on one rank. `gathered` is what weights take in a step, `gradients` what is held at the end of a backward,
    the rest is held between steps; `buffers` are DeepSpeed's own."""

    weights: float
    gathered: float
    masters: float
    moments: float
    ema: float
    gradients: float
    buffers: float

    def as_dict(self) -> dict[str, float]:
        """By purpose."""
        return asdict(self)


def memory(case: Case, sizes: Sequence[int]) -> Memory:
    """Memory of one rank for weights of these sizes."""
    total = sum(sizes)
    shard = total / case.world_size if case.stage else total
    # Without ZeRO AdamW updates the model's own weights.
    masters = 0.0 if case.stage == 0 else FP32 * shard
    weights = gathered = float((FP32 if case.rounds_itself else case.weight_bytes) * total)
    if case.stage == 3 and case.world_size > 1:
        weights = case.weight_bytes * (shard + _persistent(sizes))
        gathered = case.weight_bytes * (shard + total)
    return Memory(
        weights=weights,
        gathered=gathered,
        masters=masters,
        moments=2 * FP32 * shard,
        ema=FP32 * shard if case.has_average else 0.0,
        gradients=_gradients(case, total, shard),
        buffers=_buffers(case, sizes, shard),
    )


def _gradients(case: Case, total: int, shard: float) -> float:
    offloaded = case.offload != "none"
    if case.stage == 0:
        # One rank on a CPU leaves gradients as the backward made them. The few of vectors and of what is outside the
        # layers are fp32 there too: 4 % of ViT-S.
        narrow = case.rounds_itself and case.on_cpu and case.world_size == 1
        return float((case.weight_bytes if narrow else FP32) * total)
    if case.stage == 1 and case.precision == "bf16" and not offloaded:
        # DeepSpeed's optimizer for this case keeps whole fp32 sums beside what the backward left.
        return float((FP32 + case.weight_bytes) * total)
    if not offloaded:
        return FP32 * shard
    # On the host one copy waits for AdamW. Another one is what was summed up, unless nothing had to be.
    once = case.precision == "fp32" and case.stage < 3 and (case.stage == 1 or case.accumulation == 1)
    # In bf16 stage 1 holds on to the bucket through the gradients of other ranks' parts.
    bucket = case.precision == "bf16" and case.stage == 1 and case.world_size > 1
    return FP32 * (shard * (1 if once else 2) + (REDUCE_BUCKET if bucket else 0))


def _buffers(case: Case, sizes: Sequence[int], shard: float) -> float:
    if case.stage == 3:
        return float(FP32 * REDUCE_BUCKET)
    if case.stage and case.offload != "none":
        # The updated weights before they go to the device, and room for one gradient there and on the host.
        return case.weight_bytes * (shard + 2 * max(sizes))
    return 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Passing:
    """Bytes on one rank that come and go within a step: beside the activations, and in the update, when these are gone.

    They follow from DeepSpeed's code; `s4d bench zero` looks between these moments, `s4d profile step` has their peak.
    """

    backward: float
    update: float


def passing(case: Case, sizes: Sequence[int]) -> Passing:
    """Rounded weights, buffers of the reduction, and copies of gradients in the update."""
    total = sum(sizes)
    shard = total / case.world_size if case.stage else total
    if case.stage == 0:
        piece = 0.0 if case.world_size == 1 else float(FP32 * min(total, BUCKET_ELEMENTS))
        return Passing(backward=float(case.weight_bytes * total) if case.rounds_itself else 0.0, update=piece)
    flat = float(FP32 * min(total, ALLREDUCE_BUCKET))
    if case.stage == 1 and case.precision == "bf16" and case.offload == "none":
        return Passing(backward=0.0, update=flat)
    # Stage 3 has its bucket all the time. Stage 2 fills it with gradients as they are made and copies it to fp32 when
    # it is full; by then activations have gone that weigh more.
    element = {1: FP32, 2: case.weight_bytes, 3: 0}[case.stage]
    return Passing(backward=float(element * REDUCE_BUCKET), update=FP32 * shard if case.offload == "none" else 0.0)


def on_device(case: Case, held: Memory) -> dict[str, float]:
    """What of a rank's memory lies on its GPU, by purpose, with the weights as a step needs them."""
    found = held.as_dict()
    found["weights"] = found.pop("gathered")
    # What DeepSpeed keeps of offloaded gradients on the device is its buffers.
    absent = () if case.offload == "none" else ("masters", "moments", "ema", "gradients")
    return {name: 0.0 if name in absent else size for name, size in found.items()}


def messages(case: Case, sizes: Sequence[int]) -> int:
    """About how many messages a step sends; one more or less for each group of parameters."""
    total, bucket = sum(sizes), REDUCE_BUCKET
    if case.stage == 0:
        return 0 if case.world_size == 1 else -(-total // BUCKET_ELEMENTS)
    if case.stage == 1 and case.precision == "bf16":
        bucket = ALLREDUCE_BUCKET
    reductions = -(-total // bucket) * (case.accumulation if case.stage >= 2 else 1)
    if case.stage < 3:
        return reductions + 1
    small = sum(1 for size in sizes if size <= PERSISTENT_NUMEL)
    return reductions + small + -(-total // PREFETCH_BUCKET) * case.accumulation


def traffic(case: Case, sizes: Sequence[int]) -> dict[str, float]:
    """Bytes of the messages of one step, by collective; norms and counts, a few bytes each, are left out."""
    total = sum(sizes)
    found: dict[str, float] = {}
    if case.stage == 3:
        found["reduce_scatter_tensor"] = float(FP32 * total * case.accumulation)
    elif case.stage or case.world_size > 1:
        # Stages 1 and 2 reduce whole gradients too, and keep a part of them; a single rank as well.
        found["all_reduce"] = float(FP32 * total * (case.accumulation if case.stage == 2 else 1))
    if case.stage and case.world_size > 1:
        whole = _persistent(sizes) if case.stage == 3 else total
        # At stage 3 the others are gathered in the forward and kept for the backward: DeepSpeed lets go of a weight
        # only if more than a thousand million others come before its next use.
        fetched = (total - whole) * case.accumulation
        found["all_gather_into_tensor"] = float(case.weight_bytes * (whole + fetched))
    return found


def sent(collective: str, message: float, world_size: int) -> float:
    """Bytes that a ring of ranks sends from each rank for a message."""
    return RING_ROUNDS.get(collective, 1) * message * (world_size - 1) / world_size


def _persistent(sizes: Sequence[int]) -> int:
    return sum(size for size in sizes if size <= PERSISTENT_NUMEL)
