"""Algebra of packed variable-length batches: ``cu_seqlens`` on the device, ``layout`` on the host.

``cu_seqlens`` is int32 (B+1,), the prefix sums of the sequence lengths, first 0, last T. ``layout`` says the same on
the host as runs ``(count, length)`` of equal neighbouring sequences. Lengths of zero are allowed everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise

import torch
from torch import Tensor

Layout = tuple[tuple[int, int], ...]


def seqlens(cu_seqlens: Tensor) -> Tensor:
    """Lengths (B,) of the sequences."""
    return cu_seqlens.diff()


def cu_seqlens_from_seqlens(lengths: Tensor) -> Tensor:
    """Int32 prefix sums (B+1,) of lengths (B,)."""
    if lengths.ndim != 1 or lengths.dtype.is_floating_point:
        raise ValueError(f"lengths: expected integers (B,), got {lengths.dtype} {tuple(lengths.shape)}")
    ends = lengths.cumsum(0, dtype=torch.int32)
    return torch.cat((ends.new_zeros(1), ends))


def cu_seqlens_from_layout(layout: Layout, device: torch.device | str | None = None) -> Tensor:
    """Int32 prefix sums (B+1,) of a host layout."""
    lengths = [length for count, length in layout for _ in range(count)]
    return cu_seqlens_from_seqlens(torch.tensor(lengths, dtype=torch.int32)).to(device)


def sequence_ids(cu_seqlens: Tensor, total_tokens: int) -> Tensor:
    """Sequence index (T,) int64 of each token; ``total_tokens`` is the host's T, which spares a host sync."""
    lengths = seqlens(cu_seqlens)
    index = torch.arange(lengths.numel(), device=cu_seqlens.device)
    return torch.repeat_interleave(index, lengths, output_size=total_tokens)


def positions(cu_seqlens: Tensor, total_tokens: int) -> Tensor:
    """Index (T,) int64 of each token within its own sequence."""
    starts = cu_seqlens[sequence_ids(cu_seqlens, total_tokens)]
    return torch.arange(total_tokens, device=cu_seqlens.device) - starts


def detect_layout(cu_seqlens: Tensor, total_tokens: int) -> Layout:
    """Runs (count, length) of equal neighbours; copies ``cu_seqlens`` to the host, so it waits for the device.

    Raises ValueError unless ``cu_seqlens`` rises from 0 to ``total_tokens``.
    """
    borders = cu_seqlens.tolist()
    if borders[0] != 0 or borders[-1] != total_tokens:
        raise ValueError(f"cu_seqlens: expected to run from 0 to {total_tokens}, got {borders[0]} to {borders[-1]}")
    lengths = [end - start for start, end in pairwise(borders)]
    if min(lengths, default=0) < 0:
        raise ValueError(f"cu_seqlens: expected to rise, got a step of {min(lengths)}")
    return tuple((sum(1 for _ in run), length) for length, run in groupby(lengths))


def layout_groups(layout: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Yield (first token, count, length) of every run that holds a token."""
    first = 0
    for count, length in layout:
        if count * length:
            yield first, count, length
        first += count * length


def check_layout(layout: Layout, *, num_sequences: int, total_tokens: int, max_seqlen: int) -> None:
    """Raise ValueError unless ``layout`` agrees with the other host facts of the batch."""
    if any(count < 0 or length < 0 for count, length in layout):
        raise ValueError(f"layout: expected runs (count, length) of non-negative integers, got {layout}")
    found = (
        sum(count for count, _ in layout),
        sum(count * length for count, length in layout),
        max([0, *(length for count, length in layout if count)]),
    )
    expected = (num_sequences, total_tokens, max_seqlen)
    if found[:2] != expected[:2] or found[2] > max_seqlen:
        raise ValueError(
            f"layout {layout}: expected {expected[0]} sequences, {expected[1]} tokens and lengths up to {expected[2]}, "
            f"got {found[0]}, {found[1]} and {found[2]}"
        )
