"""Backward of the contained tiles of varlen attention in one kernel.

A tile rebuilds its probabilities from q and k, and takes the correction of the softmax from the products it holds
anyway, delta = rowsum(P * dP): neither the output nor a log-sum-exp is read; q, k, v and dO are read once, dq, dk and
dv written once.

Letters: R rows of a tile, D head_dim padded to a power of two, T tokens, H heads.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.tile_map import TileMap
from kernels.attention.tiles import Tile
from kernels.attention.triton_forward import LOG2_E, is_spoilt, load_rows, load_tile, next_range, scores_of, store_rows
from kernels.launch import launch


@triton.jit
def contain_backward(
    q_head,
    dq_head,
    do_head,
    sequence_of_token,
    start,
    lower,
    upper,
    scale,
    strides,
    FLIP: tl.constexpr,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Gradients of the sequences in [lower, upper) of the R rows from ``start``; whether one is not a number."""
    stride, part, grad_stride, grad_part, do_stride = strides
    rows = start + tl.arange(0, ROWS)
    inside = (rows >= lower) & (rows < upper)
    # (R, D)
    q = load_rows(q_head, rows, inside, stride, DIM, PADDED)
    k = load_rows(q_head + part, rows, inside, stride, DIM, PADDED)
    v = load_rows(q_head + 2 * part, rows, inside, stride, DIM, PADDED)
    do = load_rows(do_head, rows, inside, do_stride, DIM, PADDED)
    sequence = tl.load(sequence_of_token + rows, mask=inside, other=-1)
    # (R, R) from the query of a row to the key of a column
    scores = scores_of(q, k, tl.abs(scale) * LOG2_E, FLIP)
    scores = tl.where(sequence[:, None] == sequence[None, :], scores, float("-inf"))
    probs = tl.exp2(scores - tl.max(scores, 1)[:, None])
    probs = probs / tl.sum(probs, 1)[:, None]
    dv = tl.dot(tl.trans(probs.to(do.dtype)), do, input_precision="ieee")
    store_rows(dq_head + 2 * grad_part, rows, inside, grad_stride, dv, DIM, PADDED)
    checksum = tl.sum(dv, 1)
    dprobs = tl.dot(do, tl.trans(v), input_precision="ieee")
    dscores = (probs * (dprobs - tl.sum(probs * dprobs, 1)[:, None])).to(q.dtype)
    dq = tl.dot(dscores, k, input_precision="ieee") * scale
    store_rows(dq_head, rows, inside, grad_stride, dq, DIM, PADDED)
    checksum += tl.sum(dq, 1)
    dk = tl.dot(tl.trans(dscores), q, input_precision="ieee") * scale
    store_rows(dq_head + grad_part, rows, inside, grad_stride, dk, DIM, PADDED)
    checksum += tl.sum(dk, 1)
    return is_spoilt(checksum)


@triton.jit
def contained_tile(
    q_head,
    dq_head,
    do_head,
    sequence_of_token,
    cu_seqlens,
    start,
    end,
    attempts,
    scale,
    strides,
    FLIP: tl.constexpr,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
):
    """A contained tile, and again sequence by sequence where a result is not a number."""
    lower, upper = start, end
    for _ in tl.range(attempts, num_stages=1, disable_licm=True):
        if lower < upper:
            spoilt = contain_backward(
                q_head,
                dq_head,
                do_head,
                sequence_of_token,
                start,
                lower,
                upper,
                scale,
                strides,
                FLIP,
                DIM,
                PADDED,
                ROWS,
            )
            lower, upper = next_range(spoilt, lower, upper, start, end, sequence_of_token, cu_seqlens)


@triton.jit
def attention_backward(
    qkv,
    dqkv,
    dout,
    tiles,
    sequence_of_token,
    cu_seqlens,
    scale,
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
    STREAMING: tl.constexpr,
    FLIP: tl.constexpr,
):
    """Program tile * H + head: contained tiles. Longer sequences are left, or NaN where none is promised."""
    program = tl.program_id(0)
    head = (program % heads).to(tl.int64)
    row, start, end, attempts = load_tile(tiles, program // heads)
    strides = (token_stride, part_stride, grad_token_stride, grad_part_stride, dout_stride)
    dq_head = dqkv + head * grad_head_stride
    if end - start <= ROWS:
        contained_tile(
            qkv + head * head_stride, dq_head, dout + head * dout_head_stride, sequence_of_token, cu_seqlens,
            start, end, attempts, scale, strides, FLIP, DIM, PADDED, ROWS,
        )  # fmt: skip
    elif not STREAMING:
        rows = row + tl.arange(0, ROWS)
        nothing = tl.full((ROWS, PADDED), float("nan"), dtype=tl.float32)
        for part in tl.static_range(3):
            store_rows(dq_head + part * grad_part_stride, rows, rows < end, grad_token_stride, nothing, DIM, PADDED)


def launch_contained(
    dout: Tensor,
    qkv: Tensor,
    dqkv: Tensor,
    cu_seqlens: Tensor,
    tile_map: TileMap,
    tile: Tile,
    *,
    streaming: bool,
    scale: float,
) -> None:
    """Write the part of ``dqkv`` that belongs to contained tiles; ``streaming`` says that others may exist."""
    dim = qkv.shape[3]
    launch(
        attention_backward,
        (tile_map.tiles.shape[0] * qkv.shape[2],),
        *(qkv, dqkv, dout, tile_map.tiles, tile_map.sequence_of_token, cu_seqlens, scale, qkv.shape[2]),
        *(*qkv.stride()[:3], *dqkv.stride()[:3], *dout.stride()[:2]),
        num_warps=tile.contained.warps,
        num_stages=tile.contained.stages,
        DIM=dim,
        PADDED=triton.next_power_of_2(dim),
        ROWS=tile.rows,
        STREAMING=streaming,
        FLIP=scale < 0,
    )
