"""Triton backward of the reconstruction loss: three gradients from the unscaled residual.

M tokens, D width, V values of a tubelet. The upstream gradient is a scalar on the device; it and the factor 2 / V
meet the float32 sums, before they are rounded: unscaled sums over 100,000 tokens exceed float16, and a scaled residual
would fall below it. Sums over tokens run in splits of fixed size that are added in order, so they repeat to the bit.
"""

# Triton reads annotations of kernel parameters itself.
# mypy: allow-untyped-defs
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import architecture, launch
from kernels.reconstruction.tiles import select_head, select_hidden, split_tokens

_SUM_BLOCK = 1024


@triton.jit
def reconstruction_hidden_gradient_kernel(
    residual,
    weight,
    upstream,
    d_hidden,
    tokens,
    D: tl.constexpr,
    VALUES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of ``d_hidden`` (M, D) = ``upstream`` * 2 / V * ``residual`` (M, V) @ ``weight`` (V, D)."""
    tiles_n: tl.constexpr = (D + BLOCK_N - 1) // BLOCK_N
    m = tl.program_id(0) // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    is_token = (m < tokens)[:, None]
    is_column = (n < D)[None, :]
    rows = residual + m.to(tl.int64)[:, None] * VALUES
    total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first in range(0, VALUES, BLOCK_K):
        v = first + tl.arange(0, BLOCK_K)
        row = tl.load(rows + v[None, :], mask=is_token & (v < VALUES)[None, :], other=0.0)
        kernel = tl.load(weight + v[:, None] * D + n[None, :], mask=(v < VALUES)[:, None] & is_column, other=0.0)
        total = tl.dot(row, kernel, total, input_precision="ieee")
    total *= tl.load(upstream).to(tl.float32) * (2.0 / VALUES)
    place = d_hidden + m.to(tl.int64)[:, None] * D + n[None, :]
    tl.store(place, total.to(d_hidden.dtype.element_ty), mask=is_token & is_column)


@triton.jit
def reconstruction_head_gradient_kernel(
    residual,
    hidden,
    partial,
    tokens,
    tokens_per_split,
    D: tl.constexpr,
    VALUES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of ``residual``^T @ ``hidden`` over one split of the tokens; the last column of tiles sums the residual.

    A split of ``partial`` holds (V, D), then the bias gradient (V,), in float32 and unscaled.
    """
    tiles_n: tl.constexpr = (D + BLOCK_N - 1) // BLOCK_N
    tile_n = tl.program_id(0) % (tiles_n + 1)
    v = tl.program_id(0) // (tiles_n + 1) * BLOCK_M + tl.arange(0, BLOCK_M)
    is_value = v < VALUES
    start = tl.program_id(1) * tokens_per_split
    stop = tl.minimum(start + tokens_per_split, tokens)
    partial += tl.program_id(1).to(tl.int64) * (VALUES * (D + 1))
    if tile_n == tiles_n:
        column_sum = tl.zeros([BLOCK_M], dtype=tl.float32)
        for first in range(start, stop, BLOCK_K):
            m = first + tl.arange(0, BLOCK_K)
            place = residual + m.to(tl.int64)[:, None] * VALUES + v[None, :]
            row = tl.load(place, mask=(m < stop)[:, None] & is_value[None, :], other=0.0)
            column_sum += tl.sum(row.to(tl.float32), axis=0)
        tl.store(partial + VALUES * D + v, column_sum, mask=is_value)
    else:
        n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
        total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
        for first in range(start, stop, BLOCK_K):
            m = (first + tl.arange(0, BLOCK_K)).to(tl.int64)[:, None]
            row = tl.load(residual + m * VALUES + v[None, :], mask=(m < stop) & is_value[None, :], other=0.0)
            other = tl.load(hidden + m * D + n[None, :], mask=(m < stop) & (n < D)[None, :], other=0.0)
            total = tl.dot(tl.trans(row), other, total, input_precision="ieee")
        tl.store(partial + v[:, None] * D + n[None, :], total, mask=is_value[:, None] & (n < D)[None, :])


@triton.jit
def reconstruction_head_sum_kernel(
    partial, upstream, d_weight, d_bias, splits, D: tl.constexpr, VALUES: tl.constexpr, BLOCK: tl.constexpr
):
    """Splits added in order and scaled, for ``d_weight`` (V, D) and then ``d_bias`` (V,)."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_weight = place < VALUES * D
    is_any = place < VALUES * (D + 1)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    addend = partial + place
    for _ in range(0, splits):
        total += tl.load(addend, mask=is_any, other=0.0)
        addend += VALUES * (D + 1)
    total *= tl.load(upstream).to(tl.float32) * (2.0 / VALUES)
    tl.store(d_weight + place, total.to(d_weight.dtype.element_ty), mask=is_weight)
    tl.store(d_bias + (place - VALUES * D), total.to(d_bias.dtype.element_ty), mask=is_any & (place >= VALUES * D))


def hidden_gradient(residual: Tensor, weight: Tensor, upstream: Tensor) -> Tensor:
    """Gradient (M, D) of the hidden rows in their dtype; ``upstream`` is a scalar on the device."""
    tokens, values = residual.shape
    dim = weight.shape[1]
    tile = select_hidden(architecture(residual.device), residual.dtype)
    d_hidden = torch.empty(tokens, dim, dtype=residual.dtype, device=residual.device)
    launch(
        reconstruction_hidden_gradient_kernel,
        (triton.cdiv(tokens, tile.block_rows) * triton.cdiv(dim, tile.block_columns),),
        residual,
        weight.contiguous(),
        upstream,
        d_hidden,
        tokens,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        D=dim,
        VALUES=values,
        BLOCK_M=tile.block_rows,
        BLOCK_N=tile.block_columns,
        BLOCK_K=tile.block_inner,
    )
    return d_hidden


def head_gradients(residual: Tensor, hidden: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the head's weight (V, D) and bias (V,) in the dtype of the residual."""
    tokens, values = residual.shape
    dim = hidden.shape[1]
    device, dtype = residual.device, residual.dtype
    family = architecture(device)
    tile = select_head(family, dtype)
    tiles = triton.cdiv(values, tile.block_rows) * (triton.cdiv(dim, tile.block_columns) + 1)
    splits, tokens_per_split = split_tokens(family, tokens, tiles, tile.block_inner)
    partial = torch.empty(splits, values * (dim + 1), dtype=torch.float32, device=device)
    launch(
        reconstruction_head_gradient_kernel,
        (tiles, splits),
        residual,
        hidden.contiguous(),
        partial,
        tokens,
        tokens_per_split,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        D=dim,
        VALUES=values,
        BLOCK_M=tile.block_rows,
        BLOCK_N=tile.block_columns,
        BLOCK_K=tile.block_inner,
    )
    d_weight = torch.empty(values, dim, dtype=dtype, device=device)
    d_bias = torch.empty(values, dtype=dtype, device=device)
    launch(
        reconstruction_head_sum_kernel,
        (triton.cdiv(values * (dim + 1), _SUM_BLOCK),),
        partial,
        upstream,
        d_weight,
        d_bias,
        splits,
        num_warps=4,
        D=dim,
        VALUES=values,
        BLOCK=_SUM_BLOCK,
    )
    return d_weight, d_bias
