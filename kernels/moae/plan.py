"""The routing plan of one MoAE layer: which slot of which expert serves each choice of each token.

Letters: T tokens, E experts, k choices of a token. An assignment is one (token, choice) pair, numbered token * k +
choice. Slots are rows of the expert-sorted buffers. How the index arrays hang together, with T = 3, k = 2, E = 3::

    topk_expert_ids   [[2, 0], [2, 1], [0, 2]]      expert of each assignment
    order             [1, 4, 3, 0, 2, 5]            assignment in each slot: expert 0's in token order, expert 1's, ...
    slots             [[3, 0], [4, 2], [1, 5]]      slot of each assignment, the inverse of order
    expert_offsets    [0, 2, 3, 6]                  expert e owns the slots expert_offsets[e] : expert_offsets[e + 1]

With a capacity the assignments past it are not kept; they fill the slots from expert_offsets[E] on, by expert and
token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.backends import Backend, Facts, resolve
from kernels.launch import triton_refuses
from kernels.native import cuda_refuses
from kernels.native import status as native_status


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingPlan:
    """Index arrays of one routing: ``expert_offsets`` int32, ``kept`` bool, the others int64.

    ``capacity`` is the most tokens an expert serves, None without a limit (then everything is kept).
    """

    topk_expert_ids: Tensor
    expert_offsets: Tensor
    order: Tensor
    slots: Tensor
    kept: Tensor
    capacity: int | None

    def __post_init__(self) -> None:
        shape = self.topk_expert_ids.shape
        if len(shape) != 2:
            raise ValueError(f"RoutingPlan.topk_expert_ids: expected (T, k), got {tuple(shape)}")
        expected = (
            ("topk_expert_ids", shape, torch.int64),
            ("expert_offsets", self.expert_offsets.shape[:1], torch.int32),
            ("order", (shape.numel(),), torch.int64),
            ("slots", shape, torch.int64),
            ("kept", shape, torch.bool),
        )
        for name, wanted, dtype in expected:
            value: Tensor = getattr(self, name)
            if value.shape != wanted or value.dtype != dtype:
                raise ValueError(
                    f"RoutingPlan.{name}: expected {dtype} {tuple(wanted)}, got {value.dtype} {tuple(value.shape)}"
                )

    @property
    def num_experts(self) -> int:
        """E."""
        return int(self.expert_offsets.shape[0]) - 1

    @property
    def top_k(self) -> int:
        """Choices of a token."""
        return int(self.topk_expert_ids.shape[1])


def expert_capacity(num_tokens: int, top_k: int, num_experts: int, capacity_factor: float | None) -> int | None:
    """Most tokens an expert serves: floor(T * k / E * factor), or None for no limit."""
    if capacity_factor is None:
        return None
    if not capacity_factor >= 0:
        raise ValueError(f"capacity_factor: expected a number >= 0 or None, got {capacity_factor}")
    return int(num_tokens * top_k / num_experts * capacity_factor)


def portable_plan(topk_expert_ids: Tensor, num_experts: int, capacity: int | None) -> RoutingPlan:
    """The plan by one stable sort and prefix sums."""
    flat_ids = topk_expert_ids.flatten()
    ids, order = torch.sort(flat_ids, stable=True)
    experts = torch.arange(num_experts + 1, device=ids.device)
    offsets = torch.searchsorted(ids, experts)
    kept = torch.ones_like(ids, dtype=torch.bool)
    if capacity is not None:
        slot = torch.arange(ids.shape[0], device=ids.device)
        kept = slot - offsets[ids] < capacity
        served = torch.diff(offsets).clamp(max=capacity)
        start = offsets
        offsets = torch.nn.functional.pad(served.cumsum(0), (1, 0))
        dropped_slot = offsets[-1] + (~kept).cumsum(0) - 1
        slot = torch.where(kept, slot - start[ids] + offsets[ids], dropped_slot)
        # A permutation, so each element is written once.
        order = torch.empty_like(order).scatter_(0, slot, order)
        kept = torch.empty_like(kept).scatter_(0, slot, kept)
    slots = torch.empty_like(order).scatter_(0, order, torch.arange(order.shape[0], device=order.device))
    return RoutingPlan(
        topk_expert_ids=topk_expert_ids,
        expert_offsets=offsets.to(torch.int32),
        order=order,
        slots=slots.view_as(topk_expert_ids),
        kept=kept[slots].view_as(topk_expert_ids),
        capacity=capacity,
    )


def native_plan(topk_expert_ids: Tensor, num_experts: int, capacity: int | None) -> RoutingPlan:
    """The plan by the native library's counting sort."""
    from kernels.native.ops import routing_plan

    offsets, order, slots, kept = routing_plan(topk_expert_ids, num_experts, capacity)
    return RoutingPlan(
        topk_expert_ids=topk_expert_ids,
        expert_offsets=offsets,
        order=order,
        slots=slots,
        kept=kept,
        capacity=capacity,
    )


def _native_refuses(facts: Facts) -> str | None:
    if facts["device"] != "cpu":
        return f"serves CPU tensors, not {facts['device']}"
    available, reason = native_status()
    return None if available else reason


def _native_cuda_refuses(facts: Facts) -> str | None:
    return cuda_refuses() if facts["device"] == "cuda" else f"serves CUDA tensors, not {facts['device']}"


# In order of preference on CPUs, by `s4d bench moae --device cpu`; on CUDA the Triton row comes first.
BACKENDS = {
    "native": Backend(name="native", function=native_plan, refuse=_native_refuses),
    "native_cuda": Backend(name="native_cuda", function=native_plan, refuse=_native_cuda_refuses),
    "portable": Backend(name="portable", function=portable_plan),
    "triton": Backend(name="triton", function="kernels.moae.triton_plan:plan", refuse=triton_refuses),
}


def candidates(*, device: str) -> tuple[dict[str, Backend], dict[str, object]]:
    """Rows for such a call in order of preference, and the facts that they may refuse."""
    return {"triton": BACKENDS["triton"], **BACKENDS} if device == "cuda" else BACKENDS, {"device": device}


def build_plan(
    topk_expert_ids: Tensor, num_experts: int, capacity: int | None, *, backend: str | None = None
) -> RoutingPlan:
    """Plan for the chosen experts (T, k) int64, distinct within a token: tokens in order within each expert.

    With a capacity the first that many tokens of an expert are served. Reads nothing on the host; all backends give the
    same integers.
    """
    if topk_expert_ids.ndim != 2 or topk_expert_ids.dtype != torch.int64:
        raise ValueError(
            f"topk_expert_ids: expected int64 (T, k), got {topk_expert_ids.dtype} {tuple(topk_expert_ids.shape)}"
        )
    table, facts = candidates(device=topk_expert_ids.device.type)
    row = resolve("moae_plan", table, backend, **facts)
    plan: RoutingPlan = row.load()(topk_expert_ids, num_experts, capacity)
    return plan
