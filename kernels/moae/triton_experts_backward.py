"""Experts of the Triton backend, backward to the tokens and the gates; tiles as in the forward.

Starts from the stored W1 x + b1, so that no product is done twice; gate gradients come from the hidden rows, which
spares storing the experts' outputs, plus the term of the output bias.
"""

# Triton reads annotations of kernel parameters itself; a tuple of accumulators grows, which has no static type.
# mypy: allow-untyped-defs, disable-error-code=assignment
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import architecture, launch
from kernels.moae.expert_tiles import select_rows
from kernels.moae.plan import RoutingPlan
from kernels.moae.records import Experts
from kernels.moae.triton_expert_parts import chunk_product, find_tile, gelu_and_slope, products, zeros
from kernels.moae.triton_experts import contiguous_experts, row_constants, row_programs


@triton.jit
def _clear_dropped(order, expert_offsets, d_gates, slots, EXPERTS: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """Zero gate gradients of this program's share of the slots past the last expert's."""
    slot = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    dropped = (slot >= tl.load(expert_offsets + EXPERTS)) & (slot < slots)
    assignment = tl.load(order + slot, mask=dropped, other=0)
    tl.store(d_gates + assignment, tl.zeros((BLOCK_ROWS,), tl.float32), mask=dropped)


@triton.jit
def _bias_products(
    grad_rows,
    fc2_bias,
    width,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    ROW_AXIS: tl.constexpr,
):
    """grad_out . b2 of each row, in float32."""
    depth = tl.expand_dims(tl.arange(0, BLOCK_DEPTH), ROW_AXIS)
    total = zeros(BLOCK_ROWS, BLOCK_DEPTH, ROW_AXIS)
    for start in tl.range(0, width, BLOCK_DEPTH):
        inside = start + depth < WIDTH
        bias = tl.load(fc2_bias + start + depth, mask=inside, other=0.0).to(tl.float32)
        total += tl.load(grad_rows + start + depth, mask=inside, other=0.0).to(tl.float32) * bias
    return tl.sum(total, 1 - ROW_AXIS)


@triton.jit
def _gradient_block(
    grad_rows,
    fc2,
    preactivation_rows,
    d_preactivation_rows,
    gate_starts,
    live,
    first,
    width,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    ROW_AXIS: tl.constexpr,
    EXACT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Pre-activation gradients of CHUNKS blocks of hidden columns, and each row's share of its gate gradient."""
    totals = products(
        grad_rows,
        fc2,
        first,
        width,
        WIDTH,
        HIDDEN,
        HIDDEN,
        1,
        BLOCK_ROWS,
        BLOCK_DEPTH,
        BLOCK_HIDDEN,
        CHUNKS,
        ROW_AXIS,
        PRECISION,
    )
    shares = zeros(BLOCK_ROWS, BLOCK_HIDDEN, ROW_AXIS)
    gate = tl.load(gate_starts).to(tl.float32)
    chunks = ()
    for chunk in tl.static_range(CHUNKS):
        column = first + chunk * BLOCK_HIDDEN + tl.expand_dims(tl.arange(0, BLOCK_HIDDEN), ROW_AXIS)
        stored = live & (column < HIDDEN)
        before = tl.load(preactivation_rows + column, mask=stored, other=0.0)
        # Always the first: it makes the compiler move these values, in half precision, to where the products are,
        # not the products and both results of gelu, in float32, to where the values were loaded.
        before = tl.where(totals[chunk] == totals[chunk], before, 0.0)
        value, slope = gelu_and_slope(before.to(tl.float32), EXACT)
        shares += totals[chunk] * value
        block = (totals[chunk] * gate * slope).to(fc2.dtype.element_ty)
        tl.store(d_preactivation_rows + column, block, mask=stored)
        chunks += (block,)
    return chunks, tl.sum(shares, 1 - ROW_AXIS)


@triton.jit
def _backward_kernel(
    grad_out,
    preactivation,
    gates,
    order,
    expert_offsets,
    fc1,
    fc2,
    fc2_bias,
    dx_rows,
    d_gates,
    d_preactivation,
    slots,
    width,
    hidden_width,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    EXPERTS_POW2: tl.constexpr,
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
    """dz = gate * (grad W2) gelu'(z), dx = dz W1, d_gate = (grad W2) . gelu(z) + grad . b2, slot by slot."""
    _clear_dropped(order, expert_offsets, d_gates, slots, EXPERTS, BLOCK_ROWS)
    expert, first_slot, end = find_tile(expert_offsets, EXPERTS, EXPERTS_POW2, BLOCK_ROWS)
    if first_slot >= end:
        return
    in_tile = tl.arange(0, BLOCK_ROWS)
    assignment = tl.load(order + first_slot + in_tile, mask=in_tile < end - first_slot, other=0)
    gate_starts = gates + tl.expand_dims(assignment, 1 - ROW_AXIS)
    grad_rows = grad_out + tl.expand_dims(assignment // TOP_K, 1 - ROW_AXIS) * WIDTH
    matrix = expert.to(tl.int64) * HIDDEN * WIDTH
    fc1 += matrix
    fc2 += matrix
    # 64-bit only where the tile starts: offsets within it are cheaper to keep in registers.
    start = first_slot.to(tl.int64)
    row = tl.expand_dims(in_tile, 1 - ROW_AXIS)
    live = row < end - first_slot
    preactivation += start * HIDDEN + row * HIDDEN
    d_preactivation += start * HIDDEN
    dx_rows += start * WIDTH + row * WIDTH
    if RESIDENT:
        chunks, d_gate = _gradient_block(
            grad_rows,
            fc2,
            preactivation,
            d_preactivation + row * HIDDEN,
            gate_starts,
            live,
            0,
            width,
            WIDTH,
            HIDDEN,
            CHUNKS,
            BLOCK_ROWS,
            BLOCK_HIDDEN,
            BLOCK_DEPTH,
            ROW_AXIS,
            EXACT,
            PRECISION,
        )
    else:
        d_gate = tl.zeros((BLOCK_ROWS,), tl.float32)
        for first in tl.range(0, hidden_width, CHUNKS * BLOCK_HIDDEN):
            d_gate += _gradient_block(
                grad_rows,
                fc2,
                preactivation,
                d_preactivation + row * HIDDEN,
                gate_starts,
                live,
                first,
                width,
                WIDTH,
                HIDDEN,
                CHUNKS,
                BLOCK_ROWS,
                BLOCK_HIDDEN,
                BLOCK_DEPTH,
                ROW_AXIS,
                EXACT,
                PRECISION,
            )[1]
        tl.debug_barrier()
    d_gate += _bias_products(grad_rows, fc2_bias + expert * WIDTH, width, WIDTH, BLOCK_ROWS, BLOCK_DEPTH, ROW_AXIS)
    tl.store(d_gates + assignment, d_gate, mask=in_tile < end - first_slot)
    in_block = tl.expand_dims(tl.arange(0, BLOCK_COLUMNS), ROW_AXIS)
    for first in tl.range(0, width, BLOCK_COLUMNS):
        if RESIDENT:
            total = chunk_product(
                chunks,
                fc1,
                first,
                HIDDEN,
                WIDTH,
                WIDTH,
                1,
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
                d_preactivation + tl.where(live, row, 0) * HIDDEN,
                fc1,
                first,
                hidden_width,
                HIDDEN,
                WIDTH,
                WIDTH,
                1,
                BLOCK_ROWS,
                BLOCK_DEPTH,
                BLOCK_COLUMNS,
                1,
                ROW_AXIS,
                PRECISION,
            )[0]
        column = first + in_block
        tl.store(dx_rows + column, total.to(dx_rows.dtype.element_ty), mask=live & (column < WIDTH))


def experts_backward(
    grad_out: Tensor, preactivation: Tensor, gates: Tensor, plan: RoutingPlan, experts: Experts
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the gathered tokens (R, D), the gates (T, k) in float32, and the pre-activations (R, Hd).

    ``grad_out`` (T, D) is the gradient of the combined output. Gates of dropped assignments get zero; their rows of
    the two others are left undefined. One launch.
    """
    experts = contiguous_experts(experts)
    grad_out, gates, preactivation = grad_out.contiguous(), gates.contiguous(), preactivation.contiguous()
    slots, (hidden, width) = plan.order.shape[0], experts.fc1_weight.shape[1:]
    tile = select_rows("backward", architecture(grad_out.device), experts, slots)
    dx_rows = grad_out.new_empty(slots, width)
    d_gates = grad_out.new_empty(gates.shape, dtype=torch.float32)
    d_preactivation = grad_out.new_empty(slots, hidden)
    launch(
        _backward_kernel,
        (row_programs(tile, plan),),
        grad_out,
        preactivation,
        gates,
        plan.order,
        plan.expert_offsets,
        experts.fc1_weight,
        experts.fc2_weight,
        experts.fc2_bias,
        dx_rows,
        d_gates,
        d_preactivation,
        slots,
        width,
        hidden,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **row_constants(tile, grad_out, plan, experts),
    )
    return dx_rows, d_gates, d_preactivation
