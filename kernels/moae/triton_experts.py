"""Experts of the Triton backend, forward: gather, both products of an expert with the hidden tile on chip, gate.

One program serves one tile of the slots of one expert; neighbours share the expert, so its weights stay in cache.
Letters: T tokens, k choices, E experts, R = T * k slots, D width, Hd hidden width.

Tiles are oriented by ROW_AXIS. On axis 0 the slots are the rows of every product; on axis 1 they are its columns, and
the weights' columns are its rows, which is how tiles of fewer slots than a tensor core has rows still fill it.
"""

# Triton reads annotations of kernel parameters itself; a tuple of accumulators grows, which has no static type.
# mypy: allow-untyped-defs, disable-error-code=assignment
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import architecture, launch
from kernels.moae.expert_tiles import RowTile, select_rows
from kernels.moae.plan import RoutingPlan
from kernels.moae.records import Experts
from kernels.moae.triton_expert_parts import chunk_product, find_tile, gelu, products


@triton.jit
def _hidden_block(
    x_rows,
    fc1,
    fc1_bias,
    preactivation_rows,
    hidden_rows,
    live,
    first,
    width,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    KEEPS: tl.constexpr,
    RESIDENT: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    ROW_AXIS: tl.constexpr,
    EXACT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """gelu(W1 x + b1) of CHUNKS blocks of hidden columns, as a tuple in the dtype of the weights."""
    totals = products(
        x_rows,
        fc1,
        first,
        width,
        WIDTH,
        HIDDEN,
        1,
        WIDTH,
        BLOCK_ROWS,
        BLOCK_DEPTH,
        BLOCK_HIDDEN,
        CHUNKS,
        ROW_AXIS,
        PRECISION,
    )
    chunks = ()
    for chunk in tl.static_range(CHUNKS):
        column = first + chunk * BLOCK_HIDDEN + tl.expand_dims(tl.arange(0, BLOCK_HIDDEN), ROW_AXIS)
        inside = column < HIDDEN
        value = totals[chunk] + tl.load(fc1_bias + column, mask=inside, other=0.0).to(tl.float32)
        if KEEPS:
            kept = value.to(preactivation_rows.dtype.element_ty)
            tl.store(preactivation_rows + column, kept, mask=live & inside)
        block = gelu(value, EXACT).to(fc1.dtype.element_ty)
        if not RESIDENT:
            tl.store(hidden_rows + column, block, mask=live & inside)
        chunks += (block,)
    return chunks


@triton.jit
def _forward_kernel(
    x,
    gates,
    order,
    expert_offsets,
    fc1,
    fc1_bias,
    fc2,
    fc2_bias,
    rows,
    preactivation,
    hidden,
    width,
    hidden_width,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    EXPERTS_POW2: tl.constexpr,
    KEEPS: tl.constexpr,
    RESIDENT: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    ROW_AXIS: tl.constexpr,
    EXACT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """rows[slot] = gate * (W2 gelu(W1 x + b1) + b2); not RESIDENT: the hidden rows pass through memory."""
    expert, first_slot, end = find_tile(expert_offsets, EXPERTS, EXPERTS_POW2, BLOCK_ROWS)
    if first_slot >= end:
        return
    in_tile = tl.arange(0, BLOCK_ROWS)
    # Rows of a tile do not mix, so those past the end may be any token's: they are not stored.
    assignment = tl.load(order + first_slot + in_tile, mask=in_tile < end - first_slot, other=0)
    gate = tl.expand_dims(tl.load(gates + assignment).to(tl.float32), 1 - ROW_AXIS)
    x_rows = x + tl.expand_dims(assignment // TOP_K, 1 - ROW_AXIS) * WIDTH
    matrix = expert.to(tl.int64) * HIDDEN * WIDTH
    fc1 += matrix
    fc2 += matrix
    fc1_bias += expert * HIDDEN
    fc2_bias += expert * WIDTH
    # 64-bit only where the tile starts: offsets within it are cheaper to keep in registers.
    start = first_slot.to(tl.int64)
    row = tl.expand_dims(in_tile, 1 - ROW_AXIS)
    live = row < end - first_slot
    preactivation += start * HIDDEN + row * HIDDEN
    hidden += start * HIDDEN
    rows += start * WIDTH + row * WIDTH
    if RESIDENT:
        chunks = _hidden_block(
            x_rows,
            fc1,
            fc1_bias,
            preactivation,
            hidden + row * HIDDEN,
            live,
            0,
            width,
            WIDTH,
            HIDDEN,
            KEEPS,
            RESIDENT,
            CHUNKS,
            BLOCK_ROWS,
            BLOCK_HIDDEN,
            BLOCK_DEPTH,
            ROW_AXIS,
            EXACT,
            PRECISION,
        )
    else:
        for first in tl.range(0, hidden_width, CHUNKS * BLOCK_HIDDEN):
            _hidden_block(
                x_rows,
                fc1,
                fc1_bias,
                preactivation,
                hidden + row * HIDDEN,
                live,
                first,
                width,
                WIDTH,
                HIDDEN,
                KEEPS,
                RESIDENT,
                CHUNKS,
                BLOCK_ROWS,
                BLOCK_HIDDEN,
                BLOCK_DEPTH,
                ROW_AXIS,
                EXACT,
                PRECISION,
            )
        tl.debug_barrier()
    in_block = tl.expand_dims(tl.arange(0, BLOCK_COLUMNS), ROW_AXIS)
    for first in tl.range(0, width, BLOCK_COLUMNS):
        if RESIDENT:
            total = chunk_product(
                chunks,
                fc2,
                first,
                HIDDEN,
                WIDTH,
                1,
                HIDDEN,
                BLOCK_ROWS,
                BLOCK_HIDDEN,
                BLOCK_COLUMNS,
                CHUNKS,
                ROW_AXIS,
                PRECISION,
            )
        else:
            total = products(
                # A slot past the end is nowhere written: there the tile's first is read instead.
                hidden + tl.where(live, row, 0) * HIDDEN,
                fc2,
                first,
                hidden_width,
                HIDDEN,
                WIDTH,
                1,
                HIDDEN,
                BLOCK_ROWS,
                BLOCK_DEPTH,
                BLOCK_COLUMNS,
                1,
                ROW_AXIS,
                PRECISION,
            )[0]
        column = first + in_block
        inside = column < WIDTH
        total = (total + tl.load(fc2_bias + column, mask=inside, other=0.0).to(tl.float32)) * gate
        tl.store(rows + column, total.to(rows.dtype.element_ty), mask=live & inside)


def contiguous_experts(experts: Experts) -> Experts:
    """The experts with every tensor contiguous."""
    return Experts(
        fc1_weight=experts.fc1_weight.contiguous(),
        fc1_bias=experts.fc1_bias.contiguous(),
        fc2_weight=experts.fc2_weight.contiguous(),
        fc2_bias=experts.fc2_bias.contiguous(),
    )


def row_constants(tile: RowTile, x: Tensor, plan: RoutingPlan, experts: Experts) -> dict[str, Any]:
    """Compile-time constants that both kernels over tiles of slots share."""
    hidden, width = experts.fc1_weight.shape[1:]
    resident = tile.is_resident(hidden)
    return {
        "WIDTH": width,
        "HIDDEN": hidden,
        "TOP_K": plan.top_k,
        "EXPERTS": plan.num_experts,
        "EXPERTS_POW2": triton.next_power_of_2(plan.num_experts),
        "RESIDENT": resident,
        "CHUNKS": triton.cdiv(hidden, tile.hidden) if resident else tile.streamed_chunks,
        "BLOCK_ROWS": tile.rows,
        "BLOCK_HIDDEN": tile.hidden,
        "BLOCK_DEPTH": tile.depth,
        "BLOCK_COLUMNS": tile.columns,
        "ROW_AXIS": int(tile.swaps),
        "EXACT": x.dtype == torch.float32,
        "PRECISION": "ieee" if x.dtype == torch.float32 else "tf32",
    }


def row_programs(tile: RowTile, plan: RoutingPlan) -> int:
    """Programs that cover the slots however the experts share them: the host does not know how they do."""
    slots = plan.order.shape[0]
    return triton.cdiv(slots, tile.rows) + plan.num_experts - 1 if slots else 0


def experts_forward(
    x: Tensor, gates: Tensor, plan: RoutingPlan, experts: Experts, *, keep_preactivation: bool = True
) -> tuple[Tensor, Tensor]:
    """Rows (R, D), gate * (W2 gelu(W1 x + b1) + b2) of each served slot, and W1 x + b1 (R, Hd), both in x's dtype.

    ``x`` is (T, D), ``gates`` (T, k) float32. Slots past the last expert's are left undefined. Without
    ``keep_preactivation`` the second result has no rows. One launch.
    """
    experts = contiguous_experts(experts)
    x, gates = x.contiguous(), gates.contiguous()
    slots, (hidden, width) = plan.order.shape[0], experts.fc1_weight.shape[1:]
    tile = select_rows("forward", architecture(x.device), experts, slots)
    constants = row_constants(tile, x, plan, experts)
    rows = x.new_empty(slots, width)
    preactivation = x.new_empty(slots if keep_preactivation else 0, hidden)
    launch(
        _forward_kernel,
        (row_programs(tile, plan),),
        x,
        gates,
        plan.order,
        plan.expert_offsets,
        experts.fc1_weight,
        experts.fc1_bias,
        experts.fc2_weight,
        experts.fc2_bias,
        rows,
        preactivation,
        x.new_empty(0 if constants["RESIDENT"] else slots, hidden),
        width,
        hidden,
        KEEPS=keep_preactivation,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **constants,
    )
    return rows, preactivation
