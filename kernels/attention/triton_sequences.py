"""Backward of sequences longer than a tile, one program per (sequence, head).

A program runs over blocks of keys, and inside over blocks of queries: five matrix products per pair of blocks. dk and
dv stay in registers, dq is added up in float32 scratch rows that no other program touches. So the order of all
sums is fixed.

Letters: K keys and Q queries of a block, D head_dim padded to a power of two, T tokens, H heads.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.tile_map import TileMap
from kernels.attention.tiles import Tile
from kernels.attention.triton_backward import launch_contained
from kernels.attention.triton_forward import LOG2_E, load_rows, load_tile, scores_of, store_rows
from kernels.launch import launch


@triton.jit
def _write_delta(
    out_head,
    do_head,
    delta_head,
    start,
    end,
    out_stride,
    do_stride,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    QUERIES: tl.constexpr,
):
    """delta = rowsum(O * dO) of a sequence."""
    for first in range(start, end, QUERIES):
        rows = first + tl.arange(0, QUERIES)
        out = load_rows(out_head, rows, rows < end, out_stride, DIM, PADDED).to(tl.float32)
        do = load_rows(do_head, rows, rows < end, do_stride, DIM, PADDED).to(tl.float32)
        tl.store(delta_head + rows, tl.sum(out * do, 1), mask=rows < end)


@triton.jit
def key_products(
    q,
    k,
    v,
    do,
    lse,
    delta,
    keys,
    end,
    factor,
    dk,
    dv,
    FLIP: tl.constexpr,
):
    """dk and dv (K, D) with the queries of one block (Q, D) added; the gradient (K, Q) of the scores."""
    probs = tl.exp2(scores_of(k, q, factor, FLIP) - lse[None, :])
    probs = tl.where((keys < end)[:, None], probs, 0.0)
    dv = tl.dot(probs.to(do.dtype), do, dv, input_precision="ieee")
    dprobs = tl.dot(v, tl.trans(do), input_precision="ieee")
    dscores = (probs * (dprobs - delta[None, :])).to(q.dtype)
    dk = tl.dot(dscores, q, dk, input_precision="ieee")
    return dk, dv, dscores


@triton.jit
def _stream_sequence(
    q_head,
    dq_head,
    do_head,
    lse_head,
    delta_head,
    sums_head,
    start,
    end,
    scale,
    strides,
    FLIP: tl.constexpr,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    KEYS: tl.constexpr,
    QUERIES: tl.constexpr,
    RELOAD: tl.constexpr,
):
    """dq, dk and dv of one sequence; ``sums_head`` (T, DIM) are its float32 scratch rows."""
    stride, part, grad_stride, grad_part, do_stride = strides
    factor = tl.abs(scale) * LOG2_E
    for first_key in tl.range(start, end, KEYS, num_stages=1, disable_licm=True):
        keys = first_key + tl.arange(0, KEYS)
        k = load_rows(q_head + part, keys, keys < end, stride, DIM, PADDED)
        v = load_rows(q_head + 2 * part, keys, keys < end, stride, DIM, PADDED)
        dk = tl.zeros((KEYS, PADDED), dtype=tl.float32)
        dv = tl.zeros((KEYS, PADDED), dtype=tl.float32)
        # Scratch starts with the first block of keys; the last block writes the result instead.
        done_before = tl.where(first_key > start, end, start)
        keep_until = tl.where(first_key + KEYS < end, end, start)
        write_until = start + end - keep_until
        for first in tl.range(start, end, QUERIES, disable_licm=RELOAD):
            if RELOAD:
                k = load_rows(q_head + part, keys, keys < end, stride, DIM, PADDED)
                v = load_rows(q_head + 2 * part, keys, keys < end, stride, DIM, PADDED)
            rows = first + tl.arange(0, QUERIES)
            q = load_rows(q_head, rows, rows < end, stride, DIM, PADDED)
            do = load_rows(do_head, rows, rows < end, do_stride, DIM, PADDED)
            lse = tl.load(lse_head + rows, mask=rows < end, other=0.0)
            delta = tl.load(delta_head + rows, mask=rows < end, other=0.0)
            dk, dv, dscores = key_products(q, k, v, do, lse, delta, keys, end, factor, dk, dv, FLIP)
            dq = tl.dot(tl.trans(dscores), k, input_precision="ieee")
            dq += load_rows(sums_head, rows, rows < done_before, DIM, DIM, PADDED)
            store_rows(sums_head, rows, rows < keep_until, DIM, dq, DIM, PADDED)
            store_rows(dq_head, rows, rows < write_until, grad_stride, dq * scale, DIM, PADDED)
        store_rows(dq_head + grad_part, keys, keys < end, grad_stride, dk * scale, DIM, PADDED)
        store_rows(dq_head + 2 * grad_part, keys, keys < end, grad_stride, dv, DIM, PADDED)
        # The scratch rows of this block are read by other threads in the next one.
        tl.debug_barrier()


@triton.jit(do_not_specialize=["total_tokens"])
def attention_backward_sequences(
    qkv,
    dqkv,
    dout,
    out,
    lse,
    delta,
    sums,
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
    KEYS: tl.constexpr,
    QUERIES: tl.constexpr,
    RELOAD: tl.constexpr,
    FLIP: tl.constexpr,
):
    """Program tile * H + head: the first tile of a longer sequence stands for all of it, the others have no work."""
    program = tl.program_id(0)
    head = (program % heads).to(tl.int64)
    row, start, end, _ = load_tile(tiles, program // heads)
    strides = (token_stride, part_stride, grad_token_stride, grad_part_stride, dout_stride)
    if (end - start > ROWS) & (row == start):
        do_head = dout + head * dout_head_stride
        delta_head = delta + head * total_tokens
        _write_delta(out + head * DIM, do_head, delta_head, start, end, heads * DIM, dout_stride, DIM, PADDED, QUERIES)
        tl.debug_barrier()
        _stream_sequence(
            qkv + head * head_stride, dqkv + head * grad_head_stride, do_head,
            lse + head * total_tokens, delta_head, sums + head * total_tokens * DIM,
            start, end, scale, strides, FLIP, DIM, PADDED, KEYS, QUERIES, RELOAD,
        )  # fmt: skip


def launch_sequences(
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
    schedule = tile.sequences
    assert schedule is not None
    launch_contained(dout, qkv, dqkv, cu_seqlens, tile_map, tile, streaming=True, scale=scale)
    launch(
        attention_backward_sequences,
        (tile_map.tiles.shape[0] * heads,),
        *(qkv, dqkv, dout, out, lse, torch.empty_like(lse), lse.new_empty((heads, total_tokens, dim)), tile_map.tiles),
        *(scale, total_tokens, heads, *qkv.stride()[:3], *dqkv.stride()[:3], *dout.stride()[:2]),
        num_warps=schedule.warps,
        num_stages=schedule.stages,
        DIM=dim,
        PADDED=triton.next_power_of_2(dim),
        ROWS=tile.rows,
        KEYS=schedule.outer,
        QUERIES=schedule.block,
        RELOAD=schedule.reload,
        FLIP=scale < 0,
    )
    return dqkv
