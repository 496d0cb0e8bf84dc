"""The tile map of a batch built on the device in one launch, from ``cu_seqlens`` alone.

Greedy packing is a serial chain: where a tile ends decides where the next one starts. Program 0 follows it for all
tiles at once by pointer doubling: with ``jump`` = 2^r steps of the chain, every tile whose number has bit r set takes
one jump, then ``jump`` is composed with itself. The other programs find the sequence of each token by bisection.

Letters: B sequences, T tokens, P programs (upper bound of tiles), N = BLOCK.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import launch

_BLOCK = 1024


@triton.jit
def _last_border(cu_seqlens, rows, batch, bits):
    """Index of the last border at or before each of ``rows``, by bisection."""
    found = rows * 0
    for bit in range(bits):
        probe = found + (1 << (bits - 1 - bit))
        border = tl.load(cu_seqlens + probe, mask=probe <= batch, other=0x7FFFFFFF)
        found = tl.where(border <= rows, probe, found)
    return found


@triton.jit
def _follow_chain(
    cu_seqlens,
    chain,
    batch,
    programs,
    batch_bits,
    program_bits,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the first sequence of every group, a packed tile or one long sequence, to ``chain`` (P+1,)."""
    jumps = chain + programs + 1
    # (N,) the sequence after the group that would start at each sequence
    for first in range(0, batch + 1, BLOCK):
        index = first + tl.arange(0, BLOCK)
        start = tl.load(cu_seqlens + index, mask=index <= batch, other=0)
        end = tl.load(cu_seqlens + index + 1, mask=index < batch, other=0)
        after = tl.where(end - start > ROWS, index + 1, _last_border(cu_seqlens, start + ROWS, batch, batch_bits))
        tl.store(jumps + index, tl.where(index < batch, after, batch), mask=index <= batch)
    # (N,) the chain position of each group
    for first in range(0, programs + 1, BLOCK):
        index = first + tl.arange(0, BLOCK)
        tl.store(chain + index, index * 0, mask=index <= programs)
    tl.debug_barrier()
    for bit in range(program_bits):
        now = jumps + (bit % 2) * (batch + 1)
        doubled = jumps + (1 - bit % 2) * (batch + 1)
        for first in range(0, programs + 1, BLOCK):
            index = first + tl.arange(0, BLOCK)
            at = tl.load(chain + index, mask=index <= programs, other=0)
            tl.store(chain + index, tl.load(now + at), mask=(index <= programs) & ((index >> bit) % 2 == 1))
        for first in range(0, batch + 1, BLOCK):
            index = first + tl.arange(0, BLOCK)
            half = tl.load(now + index, mask=index <= batch, other=0)
            tl.store(doubled + index, tl.load(now + half), mask=index <= batch)
        tl.debug_barrier()


@triton.jit
def _store_tile(tiles, index, row, start, end, attempts, mask):
    tl.store(tiles + index * 4, row, mask=mask)
    tl.store(tiles + index * 4 + 1, start, mask=mask)
    tl.store(tiles + index * 4 + 2, end, mask=mask)
    tl.store(tiles + index * 4 + 3, attempts, mask=mask)


@triton.jit
def _write_tiles(cu_seqlens, chain, tiles, batch, programs, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Tiles of long sequences from the front of ``tiles`` (P, 4), packed ones from the back, empty ones between."""
    num_long = 0
    num_packed = 0
    for first in range(0, programs, BLOCK):
        group = first + tl.arange(0, BLOCK)
        # (N,) sequences and rows of the groups; those past the last sequence are empty
        sequence = tl.load(chain + group, mask=group < programs, other=batch)
        after = tl.load(chain + group + 1, mask=group < programs, other=batch)
        start, end = tl.load(cu_seqlens + sequence), tl.load(cu_seqlens + after)
        pieces = tl.where(end - start > ROWS, (end - start + ROWS - 1) // ROWS, 0)
        packed = ((end > start) & (pieces == 0)).to(tl.int32)
        sequences = tl.minimum(after - sequence, end - start)
        front = num_long + tl.cumsum(pieces, 0) - pieces
        for piece in range(tl.max(pieces, 0)):
            _store_tile(tiles, front + piece, start + piece * ROWS, start, end, start * 0, piece < pieces)
        back = programs - num_packed - tl.cumsum(packed, 0)
        attempts = sequences + (sequences > 1).to(tl.int32)
        _store_tile(tiles, back, start, start, end, attempts, packed == 1)
        num_long += tl.sum(pieces, 0)
        num_packed += tl.sum(packed, 0)
    for first in range(num_long, programs - num_packed, BLOCK):
        index = first + tl.arange(0, BLOCK)
        nothing = index * 0
        _store_tile(tiles, index, nothing, nothing, nothing, nothing, index < programs - num_packed)


@triton.jit(do_not_specialize=["batch", "total_tokens", "programs", "batch_bits", "program_bits"])
def build_tile_map(
    cu_seqlens,
    tiles,
    sequence_of_token,
    chain,
    batch,
    total_tokens,
    programs,
    batch_bits,
    program_bits,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program 0 packs the tiles, program 1 + i names the sequences of tokens i * BLOCK onwards."""
    program = tl.program_id(0)
    if program == 0:
        _follow_chain(cu_seqlens, chain, batch, programs, batch_bits, program_bits, ROWS, BLOCK)
        _write_tiles(cu_seqlens, chain, tiles, batch, programs, ROWS, BLOCK)
    else:
        tokens = (program - 1) * BLOCK + tl.arange(0, BLOCK)
        sequence = _last_border(cu_seqlens, tokens, batch, batch_bits)
        tl.store(sequence_of_token + tokens, sequence, mask=tokens < total_tokens)


def launch_tile_map(cu_seqlens: Tensor, total_tokens: int, rows: int, programs: int) -> tuple[Tensor, Tensor]:
    """Tiles (P, 4) int32 and the sequence (T,) int32 of each token."""
    batch = cu_seqlens.shape[0] - 1
    tiles = cu_seqlens.new_empty((programs, 4))
    sequence_of_token = cu_seqlens.new_empty(total_tokens)
    launch(
        build_tile_map,
        (1 + -(-total_tokens // _BLOCK),),
        cu_seqlens.contiguous(),
        tiles,
        sequence_of_token,
        torch.empty(programs + 1 + 2 * (batch + 1), dtype=torch.int32, device=cu_seqlens.device),
        batch,
        total_tokens,
        programs,
        batch.bit_length(),
        programs.bit_length(),
        num_warps=8,
        ROWS=rows,
        BLOCK=_BLOCK,
    )
    return tiles, sequence_of_token
