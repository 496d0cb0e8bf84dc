"""Weight gradients of the experts: per expert, sums over its slots of outer products, in slot order.

Both matrices' gradients are sums of hidden-side row times model-side row: for fc1, dz times x, for fc2, the gated
hidden row times grad_out. A program owns one (Hd, D) tile of one matrix of one expert and walks all its slots, so no
partial sums meet in memory; further programs sum the biases. Letters as in triton_experts.
"""

# Triton reads annotations of kernel parameters itself.
# mypy: allow-untyped-defs
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import architecture, launch
from kernels.moae.expert_tiles import select_outer
from kernels.moae.plan import RoutingPlan
from kernels.moae.records import Experts
from kernels.moae.triton_expert_parts import gelu


@triton.jit
def _outer_products(
    narrow,
    wide,
    gates,
    order,
    begin,
    end,
    first_hidden,
    first_column,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    TOP_K: tl.constexpr,
    ACTIVATES: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    EXACT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Tile (BLOCK_HIDDEN, BLOCK_COLUMNS) of the sum over slots of narrow[slot] outer wide[token of slot].

    ACTIVATES: of gate * gelu(narrow[slot]) instead.
    """
    in_tile = tl.arange(0, BLOCK_SLOTS)
    hidden = first_hidden + tl.arange(0, BLOCK_HIDDEN)[None, :]
    column = first_column + tl.arange(0, BLOCK_COLUMNS)[None, :]
    total = tl.zeros((BLOCK_HIDDEN, BLOCK_COLUMNS), tl.float32)
    for start in tl.range(begin, end, BLOCK_SLOTS):
        slot = start + in_tile
        live = slot < end
        assignment = tl.load(order + slot, mask=live, other=0)
        left = tl.load(
            narrow + slot[:, None].to(tl.int64) * HIDDEN + hidden,
            mask=live[:, None] & (hidden < HIDDEN),
            other=0.0,
        )
        right = tl.load(
            wide + (assignment // TOP_K)[:, None] * WIDTH + column,
            mask=live[:, None] & (column < WIDTH),
            other=0.0,
        )
        if ACTIVATES:
            gate = tl.load(gates + assignment, mask=live, other=0.0).to(tl.float32)
            left = (gelu(left.to(tl.float32), EXACT) * gate[:, None]).to(narrow.dtype.element_ty)
        total = tl.dot(tl.trans(left), right, total, input_precision=PRECISION)
    return total


@triton.jit
def _column_sums(
    rows,
    gates,
    order,
    begin,
    end,
    first_column,
    COLUMNS: tl.constexpr,
    TOP_K: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Sum over slots of rows[slot]; GATED: of gate * rows[token of slot]."""
    in_tile = tl.arange(0, BLOCK_SLOTS)
    column = first_column + tl.arange(0, BLOCK_COLUMNS)[None, :]
    total = tl.zeros((BLOCK_SLOTS, BLOCK_COLUMNS), tl.float32)
    # Named stages: loads that feed no product are not prefetched otherwise.
    for start in tl.range(begin, end, BLOCK_SLOTS, num_stages=4):
        slot = start + in_tile
        live = slot < end
        row = slot.to(tl.int64)
        gate = 1.0
        if GATED:
            assignment = tl.load(order + slot, mask=live, other=0)
            row = assignment // TOP_K
            gate = tl.load(gates + assignment, mask=live, other=0.0).to(tl.float32)[:, None]
        inside = live[:, None] & (column < COLUMNS)
        total += tl.load(rows + row[:, None] * COLUMNS + column, mask=inside, other=0.0).to(tl.float32) * gate
    return tl.sum(total, 0)


@triton.jit
def _weight_gradient_kernel(
    grad_out,
    x,
    preactivation,
    d_preactivation,
    gates,
    order,
    expert_offsets,
    d_fc1,
    d_fc1_bias,
    d_fc2,
    d_fc2_bias,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    EXACT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (tile, expert): the tiles of d_fc2 first, they take longest, then d_fc1's, then those of the biases."""
    COLUMN_TILES: tl.constexpr = (WIDTH + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    HIDDEN_TILES: tl.constexpr = (HIDDEN + BLOCK_HIDDEN - 1) // BLOCK_HIDDEN
    TILES: tl.constexpr = COLUMN_TILES * HIDDEN_TILES
    program = tl.program_id(0)
    expert = tl.program_id(1)
    begin = tl.load(expert_offsets + expert)
    end = tl.load(expert_offsets + expert + 1)
    matrix = expert.to(tl.int64) * HIDDEN * WIDTH
    first_hidden = program % TILES % HIDDEN_TILES * BLOCK_HIDDEN
    first_column = program % TILES // HIDDEN_TILES * BLOCK_COLUMNS
    hidden = first_hidden + tl.arange(0, BLOCK_HIDDEN)[:, None]
    column = first_column + tl.arange(0, BLOCK_COLUMNS)[None, :]
    inside = (hidden < HIDDEN) & (column < WIDTH)
    if program < TILES:
        total = _outer_products(
            preactivation,
            grad_out,
            gates,
            order,
            begin,
            end,
            first_hidden,
            first_column,
            WIDTH,
            HIDDEN,
            TOP_K,
            True,
            BLOCK_SLOTS,
            BLOCK_HIDDEN,
            BLOCK_COLUMNS,
            EXACT,
            PRECISION,
        )
        tl.store(d_fc2 + matrix + column * HIDDEN + hidden, total.to(d_fc2.dtype.element_ty), mask=inside)
    elif program < 2 * TILES:
        total = _outer_products(
            d_preactivation,
            x,
            gates,
            order,
            begin,
            end,
            first_hidden,
            first_column,
            WIDTH,
            HIDDEN,
            TOP_K,
            False,
            BLOCK_SLOTS,
            BLOCK_HIDDEN,
            BLOCK_COLUMNS,
            EXACT,
            PRECISION,
        )
        tl.store(d_fc1 + matrix + hidden * WIDTH + column, total.to(d_fc1.dtype.element_ty), mask=inside)
    elif program < 2 * TILES + COLUMN_TILES:
        first_column = (program - 2 * TILES) * BLOCK_COLUMNS
        place = first_column + tl.arange(0, BLOCK_COLUMNS)
        column_sum = _column_sums(
            grad_out, gates, order, begin, end, first_column, WIDTH, TOP_K, True, BLOCK_SLOTS, BLOCK_COLUMNS
        )
        d_fc2_bias += expert * WIDTH
        tl.store(d_fc2_bias + place, column_sum.to(d_fc2_bias.dtype.element_ty), mask=place < WIDTH)
    else:
        first_hidden = (program - 2 * TILES - COLUMN_TILES) * BLOCK_HIDDEN
        unit = first_hidden + tl.arange(0, BLOCK_HIDDEN)
        hidden_sum = _column_sums(
            d_preactivation, gates, order, begin, end, first_hidden, HIDDEN, TOP_K, False, BLOCK_SLOTS, BLOCK_HIDDEN
        )
        d_fc1_bias += expert * HIDDEN
        tl.store(d_fc1_bias + unit, hidden_sum.to(d_fc1_bias.dtype.element_ty), mask=unit < HIDDEN)


def weight_gradients(
    grad_out: Tensor,
    x: Tensor,
    preactivation: Tensor,
    d_preactivation: Tensor,
    gates: Tensor,
    plan: RoutingPlan,
    *,
    experts: Experts,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of fc1 (E, Hd, D), its bias (E, Hd), fc2 (E, D, Hd) and its bias (E, D), in the parameters' dtypes.

    ``grad_out`` and ``x`` are (T, D), ``preactivation`` and its gradient (R, Hd), ``gates`` (T, k). An expert without
    tokens gets zeros. One launch.
    """
    num_experts, hidden, width = experts.fc1_weight.shape
    tile = select_outer(architecture(x.device), x.dtype)
    gradients = (
        x.new_empty(num_experts, hidden, width, dtype=experts.fc1_weight.dtype),
        x.new_empty(num_experts, hidden, dtype=experts.fc1_bias.dtype),
        x.new_empty(num_experts, width, hidden, dtype=experts.fc2_weight.dtype),
        x.new_empty(num_experts, width, dtype=experts.fc2_bias.dtype),
    )
    column_tiles, hidden_tiles = triton.cdiv(width, tile.columns), triton.cdiv(hidden, tile.hidden)
    launch(
        _weight_gradient_kernel,
        (2 * column_tiles * hidden_tiles + column_tiles + hidden_tiles, num_experts),
        grad_out.contiguous(),
        x.contiguous(),
        preactivation.contiguous(),
        d_preactivation.contiguous(),
        gates.contiguous(),
        plan.order,
        plan.expert_offsets,
        *gradients,
        WIDTH=width,
        HIDDEN=hidden,
        TOP_K=plan.top_k,
        BLOCK_SLOTS=tile.slots,
        BLOCK_HIDDEN=tile.hidden,
        BLOCK_COLUMNS=tile.columns,
        EXACT=x.dtype == torch.float32,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32",
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return gradients
