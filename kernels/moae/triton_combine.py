"""Combine step of the Triton backend: each token adds up its own rows, so no two programs write one address."""

# Triton reads annotations of kernel parameters itself.
# mypy: allow-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import launch
from kernels.moae.plan import RoutingPlan

# Per program: tokens, columns, warps. Two 16-byte loads per thread and tensor in half precision.
BLOCK_TOKENS = 8
BLOCK_COLUMNS = 256
NUM_WARPS = 4


@triton.jit
def _combine_kernel(
    rows,
    slots,
    kept,
    residual,
    output,
    tokens,
    WIDTH: tl.constexpr,
    TOP_K: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """output[token] = residual[token] + the token's kept rows, added in the order of its choices."""
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)[None, :]
    exists = token < tokens
    inside = exists[:, None] & (column < WIDTH)
    total = tl.zeros((BLOCK_TOKENS, BLOCK_COLUMNS), tl.float32)
    for choice in tl.static_range(TOP_K):
        # Dropped rows were never written: they are not read either.
        served = tl.load(kept + token * TOP_K + choice, mask=exists, other=0).to(tl.int1)
        slot = tl.load(slots + token * TOP_K + choice, mask=exists, other=0)
        row = rows + slot[:, None] * WIDTH
        total += tl.load(row + column, mask=inside & served[:, None], other=0.0).to(tl.float32)
    place = token[:, None].to(tl.int64) * WIDTH + column
    if HAS_RESIDUAL:
        total += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(output + place, total.to(output.dtype.element_ty), mask=inside)


def combine(rows: Tensor, plan: RoutingPlan, residual: Tensor | None) -> Tensor:
    """Sum (T, D) of each token's kept ``rows`` (R, D) in float32, plus ``residual`` (T, D), in the dtype of ``rows``.

    Always in the order of the token's choices, the residual last. Rows of dropped assignments are not read. One launch.
    """
    tokens, width = plan.slots.shape[0], rows.shape[1]
    output = rows.new_empty(tokens, width)
    launch(
        _combine_kernel,
        (triton.cdiv(tokens, BLOCK_TOKENS), triton.cdiv(width, BLOCK_COLUMNS)),
        rows.contiguous(),
        plan.slots,
        plan.kept,
        rows if residual is None else residual.contiguous(),
        output,
        tokens,
        WIDTH=width,
        TOP_K=plan.top_k,
        HAS_RESIDUAL=residual is not None,
        BLOCK_TOKENS=BLOCK_TOKENS,
        BLOCK_COLUMNS=BLOCK_COLUMNS,
        num_warps=NUM_WARPS,
    )
    return output
