"""Forward of varlen attention: one launch for any mix of lengths, one program per (tile, head).

Contained tiles hold whole sequences, R rows as queries and keys at once, and mask by sequence; streaming tiles run over
the keys of one longer sequence with an online softmax. The exponent is base 2 with scale * log2(e) folded in.

A masked probability is zero, yet 0 * NaN is NaN: where the result of a packed tile is not a number, its sequences
are done again one by one, so that values spoilt in one sequence never reach another.

Letters: R rows of a tile, K keys of a block, D head_dim padded to a power of two, T tokens, H heads.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.tile_map import TileMap
from kernels.attention.tiles import Tile
from kernels.launch import launch

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_rows(base, rows, inside, stride, DIM: tl.constexpr, PADDED: tl.constexpr):
    """(rows, D) from ``base``; zero where not ``inside`` and beyond the head."""
    column = tl.arange(0, PADDED)
    mask = inside[:, None]
    if PADDED > DIM:
        mask &= (column < DIM)[None, :]
    return tl.load(base + rows.to(tl.int64)[:, None] * stride + column[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(base, rows, inside, stride, values, DIM: tl.constexpr, PADDED: tl.constexpr):
    """Store (rows, D), rounded to the type of ``base``; nothing where not ``inside`` and beyond the head."""
    column = tl.arange(0, PADDED)
    mask = inside[:, None]
    if PADDED > DIM:
        mask &= (column < DIM)[None, :]
    pointers = base + rows.to(tl.int64)[:, None] * stride + column[None, :]
    tl.store(pointers, values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def scores_of(left, right, factor, FLIP: tl.constexpr):
    """left @ right.T * |scale| * log2(e), negated for a negative scale."""
    scores = tl.dot(left, tl.trans(right), input_precision="ieee") * factor
    if FLIP:
        scores = -scores
    return scores


@triton.jit
def is_spoilt(row_sums):
    """Whether the sum of (rows,) is not a number."""
    # Flattened from two dimensions: reducing a vector to a number breaks the compiler's layout pass for sm_100.
    total = tl.sum(row_sums[:, None])
    return total != total


@triton.jit
def load_tile(tiles, index):
    """First row, start, end and number of attempts."""
    tile = tiles + index * 4
    return tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)


@triton.jit
def next_range(spoilt, lower, upper, start, end, sequence_of_token, cu_seqlens):
    """Rows a contained tile [start, end) does after [lower, upper): none if all went well, else each sequence alone."""
    whole = (lower == start) & (upper == end)
    lower = tl.where(whole & spoilt, start, upper)
    sequence = tl.load(sequence_of_token + lower, mask=lower < end, other=0)
    return lower, tl.load(cu_seqlens + sequence + 1, mask=lower < end, other=0)


@triton.jit
def _absorb(
    q,
    k_head,
    v_head,
    keys,
    end,
    stride,
    factor,
    state,
    FLIP: tl.constexpr,
    MASKED: tl.constexpr,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
):
    """One step of the online softmax: sums (R, D), row sums (R,) and row maxima (R,) with the ``keys`` (K,) added."""
    sums, denominator, maximum = state
    k = load_rows(k_head, keys, keys < end, stride, DIM, PADDED)
    v = load_rows(v_head, keys, keys < end, stride, DIM, PADDED)
    scores = scores_of(q, k, factor, FLIP)
    if MASKED:
        scores = tl.where((keys < end)[None, :], scores, float("-inf"))
    larger = tl.maximum(maximum, tl.max(scores, 1))
    shrink = tl.exp2(maximum - larger)
    probs = tl.exp2(scores - larger[:, None])
    denominator = denominator * shrink + tl.sum(probs, 1)
    sums = tl.dot(probs.to(v.dtype), v, sums * shrink[:, None], input_precision="ieee")
    return sums, denominator, larger


@triton.jit
def _stream(
    q_head,
    k_head,
    v_head,
    out_head,
    lse_head,
    tile,
    stride,
    out_stride,
    factor,
    FLIP: tl.constexpr,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    RELOAD: tl.constexpr,
):
    """R rows of one long sequence; also the base-2 log-sum-exp of their scores."""
    row, start, end = tile
    rows = row + tl.arange(0, ROWS)
    q = load_rows(q_head, rows, rows < end, stride, DIM, PADDED)
    sums = tl.zeros((ROWS, PADDED), dtype=tl.float32)
    denominator = tl.zeros((ROWS,), dtype=tl.float32)
    maximum = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    last = start + (end - start) // KEYS * KEYS
    for first in tl.range(start, last, KEYS, disable_licm=RELOAD):
        if RELOAD:
            q = load_rows(q_head, rows, rows < end, stride, DIM, PADDED)
        keys = first + tl.arange(0, KEYS)
        state = (sums, denominator, maximum)
        sums, denominator, maximum = _absorb(
            q, k_head, v_head, keys, end, stride, factor, state, FLIP, False, DIM, PADDED
        )
    if last < end:
        keys = last + tl.arange(0, KEYS)
        state = (sums, denominator, maximum)
        sums, denominator, maximum = _absorb(
            q, k_head, v_head, keys, end, stride, factor, state, FLIP, True, DIM, PADDED
        )
    store_rows(out_head, rows, rows < end, out_stride, sums / denominator[:, None], DIM, PADDED)
    tl.store(lse_head + rows, maximum + tl.log2(denominator), mask=rows < end)


@triton.jit
def _contain(
    q_head,
    k_head,
    v_head,
    out_head,
    sequence_of_token,
    start,
    lower,
    upper,
    stride,
    out_stride,
    factor,
    FLIP: tl.constexpr,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The sequences in [lower, upper) of the R rows from ``start``; whether a result is not a number."""
    rows = start + tl.arange(0, ROWS)
    inside = (rows >= lower) & (rows < upper)
    # (R, D)
    q = load_rows(q_head, rows, inside, stride, DIM, PADDED)
    k = load_rows(k_head, rows, inside, stride, DIM, PADDED)
    v = load_rows(v_head, rows, inside, stride, DIM, PADDED)
    # Rows outside count as one sequence of zeros, which spares a guard against rows without a key.
    sequence = tl.load(sequence_of_token + rows, mask=inside, other=-1)
    scores = tl.where(sequence[:, None] == sequence[None, :], scores_of(q, k, factor, FLIP), float("-inf"))
    probs = tl.exp2(scores - tl.max(scores, 1)[:, None])
    sums = tl.dot(probs.to(v.dtype), v, input_precision="ieee")
    out = sums / tl.sum(probs, 1)[:, None]
    store_rows(out_head, rows, inside, out_stride, out, DIM, PADDED)
    return is_spoilt(tl.sum(out, 1))


@triton.jit(do_not_specialize=["total_tokens"])
def attention_forward(
    qkv,
    out,
    lse,
    tiles,
    sequence_of_token,
    cu_seqlens,
    scale,
    total_tokens,
    heads,
    token_stride,
    part_stride,
    head_stride,
    out_stride,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    RELOAD: tl.constexpr,
    STREAMING: tl.constexpr,
    FLIP: tl.constexpr,
):
    """Program tile * H + head. Without STREAMING no sequence is longer than R, and a longer one yields NaN."""
    program = tl.program_id(0)
    head = (program % heads).to(tl.int64)
    row, start, end, attempts = load_tile(tiles, program // heads)
    factor = tl.abs(scale) * LOG2_E
    q_head = qkv + head * head_stride
    k_head = q_head + part_stride
    v_head = k_head + part_stride
    out_head = out + head * DIM
    if end - start <= ROWS:
        lower, upper = start, end
        # Invariants hoisted out of this loop would cost registers, and it hardly ever repeats.
        for _ in tl.range(attempts, num_stages=1, disable_licm=True):
            if lower < upper:
                spoilt = _contain(
                    q_head, k_head, v_head, out_head, sequence_of_token, start, lower, upper,
                    token_stride, out_stride, factor, FLIP, DIM, PADDED, ROWS,
                )  # fmt: skip
                lower, upper = next_range(spoilt, lower, upper, start, end, sequence_of_token, cu_seqlens)
    elif STREAMING:
        tile_rows = (row, start, end)
        lse_head = lse + head * total_tokens
        _stream(
            q_head, k_head, v_head, out_head, lse_head, tile_rows,
            token_stride, out_stride, factor, FLIP, DIM, PADDED, ROWS, KEYS, RELOAD,
        )  # fmt: skip
    else:
        rows = row + tl.arange(0, ROWS)
        nothing = tl.full((ROWS, PADDED), float("nan"), dtype=tl.float32)
        store_rows(out_head, rows, rows < end, out_stride, nothing, DIM, PADDED)


def launch_forward(
    qkv: Tensor, cu_seqlens: Tensor, tile_map: TileMap, tile: Tile, *, streaming: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Output (T, H, D) and, if ``streaming``, the base-2 log-sum-exp (H, T) of the rows of longer sequences."""
    total_tokens, _, heads, dim = qkv.shape
    out = qkv.new_empty((total_tokens, heads, dim))
    lse = qkv.new_empty((heads, total_tokens) if streaming else (0,), dtype=torch.float32)
    launch(
        attention_forward,
        (tile_map.tiles.shape[0] * heads,),
        qkv,
        out,
        lse,
        tile_map.tiles,
        tile_map.sequence_of_token,
        cu_seqlens,
        scale,
        total_tokens,
        heads,
        *qkv.stride()[:3],
        out.stride(0),
        num_warps=tile.forward.warps,
        num_stages=tile.forward.stages,
        DIM=dim,
        PADDED=triton.next_power_of_2(dim),
        ROWS=tile.rows,
        KEYS=tile.forward.block,
        RELOAD=tile.forward.reload,
        STREAMING=streaming,
        FLIP=scale < 0,
    )
    return out, lse
