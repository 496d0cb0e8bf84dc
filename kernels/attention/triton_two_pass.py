"""Backward of varlen attention in two launches, for batches with too few longer sequences to fill the device.

The first works tile by tile on queries: contained tiles are done with it, streaming tiles write delta = rowsum(O * dO)
and dq. The second works tile by tile on keys and writes dk and dv. Seven matrix products instead of the five of
``triton_sequences``, but every tile of a longer sequence is a program of its own.

Letters: R rows of a tile, K keys and Q queries of a block, D head_dim padded to a power of two.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.tile_map import TileMap
from kernels.attention.tiles import Tile
from kernels.attention.triton_backward import contained_tile
from kernels.attention.triton_forward import LOG2_E, load_rows, load_tile, scores_of, store_rows
from kernels.attention.triton_sequences import key_products
from kernels.launch import launch


@triton.jit
def _query_tile(
    q_head,
    dq_head,
    do_head,
    out_head,
    lse_head,
    delta_head,
    out_stride,
    row,
    start,
    end,
    scale,
    strides,
    FLIP: tl.constexpr,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    RELOAD: tl.constexpr,
):
    """delta and dq of R rows of one longer sequence."""
    stride, part, grad_stride, _, do_stride = strides
    rows = row + tl.arange(0, ROWS)
    # (R, D)
    q = load_rows(q_head, rows, rows < end, stride, DIM, PADDED)
    do = load_rows(do_head, rows, rows < end, do_stride, DIM, PADDED)
    out = load_rows(out_head, rows, rows < end, out_stride, DIM, PADDED)
    delta = tl.sum(out.to(tl.float32) * do.to(tl.float32), 1)
    tl.store(delta_head + rows, delta, mask=rows < end)
    lse = tl.load(lse_head + rows, mask=rows < end, other=0.0)
    dq = tl.zeros((ROWS, PADDED), dtype=tl.float32)
    for first in tl.range(start, end, KEYS, disable_licm=RELOAD):
        if RELOAD:
            q = load_rows(q_head, rows, rows < end, stride, DIM, PADDED)
            do = load_rows(do_head, rows, rows < end, do_stride, DIM, PADDED)
        keys = first + tl.arange(0, KEYS)
        # (K, D)
        k = load_rows(q_head + part, keys, keys < end, stride, DIM, PADDED)
        v = load_rows(q_head + 2 * part, keys, keys < end, stride, DIM, PADDED)
        probs = tl.exp2(scores_of(q, k, tl.abs(scale) * LOG2_E, FLIP) - lse[:, None])
        probs = tl.where((keys < end)[None, :], probs, 0.0)
        dprobs = tl.dot(do, tl.trans(v), input_precision="ieee")
        dscores = (probs * (dprobs - delta[:, None])).to(q.dtype)
        dq = tl.dot(dscores, k, dq, input_precision="ieee")
    store_rows(dq_head, rows, rows < end, grad_stride, dq * scale, DIM, PADDED)


@triton.jit
def _key_tile(
    q_head,
    dq_head,
    do_head,
    lse_head,
    delta_head,
    row,
    start,
    end,
    scale,
    strides,
    FLIP: tl.constexpr,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    QUERIES: tl.constexpr,
    RELOAD: tl.constexpr,
):
    """dk and dv of R rows of one longer sequence."""
    stride, part, grad_stride, grad_part, do_stride = strides
    factor = tl.abs(scale) * LOG2_E
    keys = row + tl.arange(0, ROWS)
    # (R, D)
    k = load_rows(q_head + part, keys, keys < end, stride, DIM, PADDED)
    v = load_rows(q_head + 2 * part, keys, keys < end, stride, DIM, PADDED)
    dk = tl.zeros((ROWS, PADDED), dtype=tl.float32)
    dv = tl.zeros((ROWS, PADDED), dtype=tl.float32)
    for first in tl.range(start, end, QUERIES, disable_licm=RELOAD):
        if RELOAD:
            k = load_rows(q_head + part, keys, keys < end, stride, DIM, PADDED)
            v = load_rows(q_head + 2 * part, keys, keys < end, stride, DIM, PADDED)
        rows = first + tl.arange(0, QUERIES)
        # (Q, D)
        q = load_rows(q_head, rows, rows < end, stride, DIM, PADDED)
        do = load_rows(do_head, rows, rows < end, do_stride, DIM, PADDED)
        lse = tl.load(lse_head + rows, mask=rows < end, other=0.0)
        delta = tl.load(delta_head + rows, mask=rows < end, other=0.0)
        dk, dv, _ = key_products(q, k, v, do, lse, delta, keys, end, factor, dk, dv, FLIP)
    store_rows(dq_head + grad_part, keys, keys < end, grad_stride, dk * scale, DIM, PADDED)
    store_rows(dq_head + 2 * grad_part, keys, keys < end, grad_stride, dv, DIM, PADDED)


@triton.jit(do_not_specialize=["total_tokens"])
def attention_backward_queries(
    qkv,
    dqkv,
    dout,
    out,
    lse,
    delta,
    tiles,
    sequence_of_token,
    cu_seqlens,
    scale,
    total_tokens,
    heads,
    token_stride,
    part_stride,
    head_stride,
    grad_token_stride,
    grad_part_stride,
    grad_head_stride,
    dout_stride,
    dout_head_stride,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    RELOAD: tl.constexpr,
    FLIP: tl.constexpr,
):
    """Program tile * H + head: all of a contained tile, delta and dq of a streaming one."""
    program = tl.program_id(0)
    head = (program % heads).to(tl.int64)
    row, start, end, attempts = load_tile(tiles, program // heads)
    strides = (token_stride, part_stride, grad_token_stride, grad_part_stride, dout_stride)
    q_head = qkv + head * head_stride
    dq_head = dqkv + head * grad_head_stride
    do_head = dout + head * dout_head_stride
    if end - start <= ROWS:
        contained_tile(
            q_head, dq_head, do_head, sequence_of_token, cu_seqlens, start, end, attempts, scale, strides,
            FLIP, DIM, PADDED, ROWS,
        )  # fmt: skip
    else:
        _query_tile(
            q_head, dq_head, do_head, out + head * DIM, lse + head * total_tokens, delta + head * total_tokens,
            heads * DIM, row, start, end, scale, strides, FLIP, DIM, PADDED, ROWS, KEYS, RELOAD,
        )  # fmt: skip


@triton.jit(do_not_specialize=["total_tokens"])
def attention_backward_keys(
    qkv,
    dqkv,
    dout,
    lse,
    delta,
    tiles,
    scale,
    total_tokens,
    heads,
    token_stride,
    part_stride,
    head_stride,
    grad_token_stride,
    grad_part_stride,
    grad_head_stride,
    dout_stride,
    dout_head_stride,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    QUERIES: tl.constexpr,
    RELOAD: tl.constexpr,
    FLIP: tl.constexpr,
):
    """Program tile * H + head: dk and dv of a streaming tile; contained tiles are done."""
    program = tl.program_id(0)
    head = (program % heads).to(tl.int64)
    row, start, end, _ = load_tile(tiles, program // heads)
    strides = (token_stride, part_stride, grad_token_stride, grad_part_stride, dout_stride)
    if end - start > ROWS:
        _key_tile(
            qkv + head * head_stride, dqkv + head * grad_head_stride, dout + head * dout_head_stride,
            lse + head * total_tokens, delta + head * total_tokens, row, start, end, scale, strides,
            FLIP, DIM, PADDED, ROWS, QUERIES, RELOAD,
        )  # fmt: skip


def launch_two_pass(
    dout: Tensor,
    qkv: Tensor,
    cu_seqlens: Tensor,
    saved: tuple[Tensor, Tensor],
    tile_map: TileMap,
    tile: Tile,
    *,
    scale: float,
) -> Tensor:
    """dqkv in the layout of ``qkv`` from two launches; ``saved`` is the output and log-sum-exp."""
    total_tokens, _, heads, dim = qkv.shape
    dqkv = torch.empty_like(qkv)
    out, lse = saved
    delta = torch.empty_like(lse)
    grid = (tile_map.tiles.shape[0] * heads,)
    numbers = (scale, total_tokens, heads, *qkv.stride()[:3], *dqkv.stride()[:3], *dout.stride()[:2])
    constants = {"DIM": dim, "PADDED": triton.next_power_of_2(dim), "ROWS": tile.rows, "FLIP": scale < 0}
    launch(
        attention_backward_queries,
        grid,
        *(qkv, dqkv, dout, out, lse, delta, tile_map.tiles, tile_map.sequence_of_token, cu_seqlens, *numbers),
        num_warps=tile.queries.warps,
        num_stages=tile.queries.stages,
        KEYS=tile.queries.block,
        RELOAD=tile.queries.reload,
        **constants,
    )
    launch(
        attention_backward_keys,
        grid,
        *(qkv, dqkv, dout, lse, delta, tile_map.tiles, *numbers),
        num_warps=tile.keys.warps,
        num_stages=tile.keys.stages,
        QUERIES=tile.keys.block,
        RELOAD=tile.keys.reload,
        **constants,
    )
    return dqkv
