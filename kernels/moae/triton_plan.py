"""Routing plan in one launch after the blocks are counted: no atomics, nothing read on the host.

Tokens are cut into blocks that do not cross the borders of the groups; which tokens a block holds follows from the
borders in closed form. A program of the plan kernel serves a run of blocks: it sums the counts of the blocks before
its own, ranks its assignments in token order and writes their slots.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import launch
from kernels.moae.plan import RoutingPlan

# Groups whose statistics the kernels can finish; the borders between them are arguments.
MOST_GROUPS = 4
# Elements of the (tokens, experts) tile of a program, and of a chunk of block counts.
_TILE = 2048


@triton.jit
def block_start(block, T, bound1, bound2, bound3, BT: tl.constexpr):
    """First token of ``block``; T past the last block. Groups end at bound1, bound2, bound3 and T."""
    after1 = tl.cdiv(bound1, BT)
    after2 = after1 + tl.cdiv(bound2 - bound1, BT)
    after3 = after2 + tl.cdiv(bound3 - bound2, BT)
    late = tl.where(block < after3, bound2 + (block - after2) * BT, bound3 + (block - after3) * BT)
    early = tl.where(block < after1, block * BT, bound1 + (block - after1) * BT)
    return tl.minimum(tl.where(block < after2, early, late), T)


@triton.jit
def group_end(token, T, bound1, bound2, bound3):
    """End of the group of ``token``."""
    late = tl.where(token < bound3, bound3, T)
    return tl.where(token < bound1, bound1, tl.where(token < bound2, bound2, late))


@triton.jit(do_not_specialize=["T"])
def count_kernel(ids, block_counts, T, E: tl.constexpr, K: tl.constexpr, EP: tl.constexpr, BT: tl.constexpr):
    """Assignments of each expert in one block of tokens; ``ids`` (T, k)."""
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    e = tl.arange(0, EP)
    count = tl.zeros((EP,), dtype=tl.int32)
    for choice in tl.static_range(K):
        expert = tl.load(ids + t * K + choice, mask=t < T, other=EP).to(tl.int32)
        count += tl.sum((expert[:, None] == e[None, :]).to(tl.int32), 0)
    tl.store(block_counts + tl.program_id(0) * E + e, count, mask=e < E)


@triton.jit(do_not_specialize=["num_blocks", "capacity", "T", "bound1", "bound2", "bound3", "num_groups"])
def plan_kernel(
    ids, block_counts, block_probs, expert_offsets, order, slots, kept, counts, prob_sums,
    num_blocks, capacity, T, bound1, bound2, bound3, num_groups,
    E: tl.constexpr, K: tl.constexpr, EP: tl.constexpr,
    BT: tl.constexpr, RUN: tl.constexpr, CHUNK: tl.constexpr, STATISTICS: tl.constexpr,
):  # fmt: skip
    """Slots of the assignments of RUN blocks; program 0 writes the offsets, program g the statistics of group g."""
    program = tl.program_id(0)
    first = program * RUN
    after1 = tl.cdiv(bound1, BT)
    after2 = after1 + tl.cdiv(bound2 - bound1, BT)
    after3 = after2 + tl.cdiv(bound3 - bound2, BT)
    group_first = tl.where(program == 0, 0, tl.where(program == 1, after1, tl.where(program == 2, after2, after3)))
    group_last = tl.where(
        program == 0, after1, tl.where(program == 1, after2, tl.where(program == 2, after3, num_blocks))
    )
    group_last = tl.where(program < num_groups, group_last, 0)
    e = tl.arange(0, EP)
    total = tl.zeros((EP,), dtype=tl.int32)
    before = tl.zeros((EP,), dtype=tl.int32)
    in_group = tl.zeros((EP,), dtype=tl.int32)
    probs = tl.zeros((EP,), dtype=tl.float32)
    for start in range(0, num_blocks, CHUNK):
        block = start + tl.arange(0, CHUNK)
        place, inside = block[:, None] * E + e[None, :], (block < num_blocks)[:, None] & (e < E)[None, :]
        count = tl.load(block_counts + place, mask=inside, other=0)
        total += tl.sum(count, 0)
        before += tl.sum(tl.where((block < first)[:, None], count, 0), 0)
        if STATISTICS:
            member = ((block >= group_first) & (block < group_last))[:, None]
            in_group += tl.sum(tl.where(member, count, 0), 0)
            probs += tl.sum(tl.load(block_probs + place, mask=inside & member, other=0.0), 0)
    served = tl.minimum(total, capacity)
    all_served = tl.sum(served, 0)
    offset = tl.cumsum(served, 0) - served
    # Dropped assignments follow the served ones, by expert and token.
    dropped = total - served
    dropped_offset = tl.cumsum(dropped, 0) - dropped + all_served
    if program == 0:
        tl.store(expert_offsets + e, offset, mask=e < E)
        tl.store(expert_offsets + E, all_served)
    if STATISTICS and program < num_groups:
        tl.store(counts + program * E + e, in_group.to(tl.int64), mask=e < E)
        tl.store(prob_sums + program * E + e, probs, mask=e < E)
    t = block_start(first, T, bound1, bound2, bound3, BT) + tl.arange(0, RUN * BT)
    mine = t < block_start(first + RUN, T, bound1, bound2, bound3, BT)
    chosen = tl.zeros((RUN * BT, EP), dtype=tl.int32)
    for choice in tl.static_range(K):
        expert = tl.load(ids + t * K + choice, mask=mine, other=EP).to(tl.int32)
        # Experts are distinct; a sum of comparisons would be packed through memory to count bits.
        chosen |= (expert[:, None] == e[None, :]).to(tl.int32)
    rank = tl.cumsum(chosen, 0) - chosen + before[None, :]
    late = dropped_offset[None, :] + rank - capacity
    slot_of = tl.where(rank < capacity, offset[None, :] + rank, late)
    for choice in tl.static_range(K):
        expert = tl.load(ids + t * K + choice, mask=mine, other=EP).to(tl.int32)
        slot = tl.sum(tl.where(expert[:, None] == e[None, :], slot_of, 0), 1)
        assignment = t * K + choice
        tl.store(slots + assignment, slot.to(tl.int64), mask=mine)
        tl.store(kept + assignment, slot < all_served, mask=mine)
        tl.store(order + slot, assignment.to(tl.int64), mask=mine)


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """How the tokens are cut: blocks of ``tokens`` inside each group, ``count`` in all.

    ``bounds`` are the ends of the first three groups, T where there are fewer.
    """

    tokens: int
    count: int
    bounds: tuple[int, int, int]

    @classmethod
    def of(cls, groups: tuple[int, ...], tokens: int) -> Blocks:
        """Blocks of ``tokens`` for the boundaries ``groups`` of at most MOST_GROUPS token ranges."""
        inner = groups[1:-1] + (groups[-1],) * MOST_GROUPS
        return cls(
            tokens=tokens,
            count=sum(triton.cdiv(end - start, tokens) for start, end in pairwise(groups)),
            bounds=(inner[0], inner[1], inner[2]),
        )


def plan_forward(
    ids: Tensor,
    block_counts: Tensor,
    block_probs: Tensor | None,
    capacity: int | None,
    blocks: Blocks,
    *,
    num_groups: int = 1,
) -> tuple[RoutingPlan, Tensor, Tensor]:
    """The plan of ``ids`` (T, k), and per group the counts (G, E) int64 and the sums of ``block_probs`` (G, E)."""
    (num_tokens, top_k), num_experts = ids.shape, block_counts.shape[1]
    columns = triton.next_power_of_2(num_experts)
    run = max(1, min(4, _TILE // (columns * blocks.tokens)))
    plan = RoutingPlan(
        topk_expert_ids=ids,
        expert_offsets=ids.new_empty(num_experts + 1, dtype=torch.int32),
        order=ids.new_empty(ids.numel()),
        slots=ids.new_empty(ids.shape),
        kept=ids.new_empty(ids.shape, dtype=torch.bool),
        capacity=capacity,
    )
    counts = ids.new_empty(num_groups, num_experts)
    prob_sums = ids.new_empty(num_groups, num_experts, dtype=torch.float32)
    launch(
        plan_kernel,
        (max(triton.cdiv(blocks.count, run), num_groups),),
        *(ids, block_counts, block_counts if block_probs is None else block_probs),
        *(plan.expert_offsets, plan.order, plan.slots, plan.kept, counts, prob_sums),
        blocks.count,
        num_tokens if capacity is None else min(capacity, num_tokens),
        num_tokens,
        *blocks.bounds,
        num_groups,
        num_warps=_warps(columns),
        num_stages=1,
        E=num_experts,
        K=top_k,
        EP=columns,
        BT=blocks.tokens,
        RUN=run,
        CHUNK=max(1, min(128, _TILE // columns)),
        STATISTICS=block_probs is not None,
    )
    return plan, counts, prob_sums


def count_and_plan(ids: Tensor, num_experts: int, capacity: int | None) -> RoutingPlan:
    """Launch the plan of choices (T, k), contiguous, alone: once to count the blocks, once to rank."""
    columns = triton.next_power_of_2(num_experts)
    blocks = Blocks.of((0, ids.shape[0]), max(16, min(64, _TILE // columns)))
    block_counts = ids.new_empty(blocks.count, num_experts, dtype=torch.int32)
    launch(
        count_kernel,
        (blocks.count,),
        *(ids, block_counts, ids.shape[0]),
        num_warps=_warps(columns),
        E=num_experts,
        K=ids.shape[1],
        EP=columns,
        BT=blocks.tokens,
    )
    return plan_forward(ids, block_counts, None, capacity, blocks)[0]


def _warps(columns: int) -> int:
    """Warps for this many padded experts: with four, wide tiles do not fit the registers."""
    return 8 if columns >= 64 else 4


@torch.library.custom_op("s4d::triton_plan", mutates_args=())
def triton_plan(ids: Tensor, num_experts: int, capacity: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Expert offsets (E + 1), order (T * k), slots (T, k) and kept (T, k) of the chosen experts ``ids`` (T, k)."""
    found = count_and_plan(ids.contiguous(), num_experts, capacity)
    return found.expert_offsets, found.order, found.slots, found.kept


@triton_plan.register_fake
def _(ids: Tensor, num_experts: int, capacity: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    slots = ids.new_empty(ids.shape)
    offsets = ids.new_empty(num_experts + 1, dtype=torch.int32)
    return offsets, ids.new_empty(ids.numel()), slots, ids.new_empty(ids.shape, dtype=torch.bool)


def plan(topk_expert_ids: Tensor, num_experts: int, capacity: int | None) -> RoutingPlan:
    """The plan of choices (T, k)."""
    offsets, order, slots, kept = triton_plan(topk_expert_ids, num_experts, capacity)
    return RoutingPlan(
        topk_expert_ids=topk_expert_ids,
        expert_offsets=offsets,
        order=order,
        slots=slots,
        kept=kept,
        capacity=capacity,
    )
