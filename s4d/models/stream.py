"""The packed token stream as modules see it: borders and index tables, built once per batch without a host sync."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from s4d.data.batch import PackedBatch

Layout = tuple[tuple[int, int], ...]
# Runs (sequences, tokens of one in a first stream, in a second) of two streams of the same sequences.
Pairs = tuple[tuple[int, int, int], ...]


class Segments(NamedTuple):
    """Borders of the sequences of a token stream; `layout` is the host tuple of (count, length) runs."""

    cu_seqlens: Tensor
    max_seqlen: int
    layout: Layout


class RouterNoise(NamedTuple):
    """What router noise depends on: the layer's key (1,), and for each token its sample's key and its place in it."""

    key: Tensor
    sample_key: Tensor
    token: Tensor


def all_segments(batch: PackedBatch) -> Segments:
    """Borders of the sequences with all their tokens."""
    return Segments(batch.cu_seqlens, batch.max_seqlen, batch.layout)


def visible_segments(batch: PackedBatch) -> Segments:
    """Borders of the sequences with their visible tokens only."""
    return Segments(batch.cu_seqlens_visible, batch.max_seqlen_visible, batch.layout_visible)


def masked_layout(batch: PackedBatch) -> Layout:
    """Runs of the tokens to predict, in the order of `masked_indices`."""
    if batch.layout_masked is not None:
        return batch.layout_masked
    return tuple((count, whole - seen) for count, whole, seen in paired(batch.layout, batch.layout_visible))


def paired(first: Layout, second: Layout) -> Pairs:
    """Two layouts of the same sequences as one, on the host."""
    lengths = zip(sequence_lengths(first), sequence_lengths(second), strict=True)
    return tuple((len(list(equal)), *pair) for pair, equal in groupby(lengths))


def joined(first: Tensor, second: Tensor, pairs: Pairs) -> tuple[Tensor, Segments, Tensor]:
    """One stream (T, D) in which each sequence has its rows of `first`, then its rows of `second`.

    With its borders, and the places in it of the rows of `second`.
    """
    parts, borders, places = [], [], []
    start, device = 0, first.device
    firsts = first.split([count * a for count, a, _ in pairs])
    seconds = second.split([count * b for count, _, b in pairs])
    for (count, a, b), left, right in zip(pairs, firsts, seconds, strict=True):
        parts.append(torch.cat((left.view(count, a, -1), right.view(count, b, -1)), dim=1).flatten(0, 1))
        stop = start + count * (a + b)
        borders.append(torch.arange(start, stop, a + b, device=device, dtype=torch.int32))
        places.append(torch.arange(start, stop, device=device).view(count, a + b)[:, a:].flatten())
        start = stop
    borders.append(torch.full((1,), start, device=device, dtype=torch.int32))
    layout = tuple((count, a + b) for count, a, b in pairs)
    longest = max(length for _, length in layout)
    return torch.cat(parts), Segments(torch.cat(borders), longest, layout), torch.cat(places)


def sequence_lengths(layout: Layout) -> list[int]:
    """Tokens of every sequence, on the host."""
    return [length for count, length in layout for _ in range(count)]


def group_tokens(batch: PackedBatch, layout: Layout) -> list[int]:
    """Tokens of every pixel group under a layout of the same sequences, on the host."""
    lengths = sequence_lengths(layout)
    tokens, start = [], 0
    for group in batch.groups:
        stop = start + group.pixels.shape[0]
        tokens.append(sum(lengths[start:stop]))
        start = stop
    return tokens


def image_tokens(batch: PackedBatch, layout: Layout) -> int:
    """Tokens of the still images, which come first in the stream."""
    tokens = group_tokens(batch, layout)
    return sum(count for group, count in zip(batch.groups, tokens, strict=True) if group.modality == "image")


def sequence_ids(layout: Layout, device: torch.device) -> Tensor:
    """Sequence of every token, (T,) int64."""
    parts, first = [], 0
    for count, length in layout:
        parts.append(torch.arange(first, first + count, device=device).repeat_interleave(length))
        first += count
    return torch.cat(parts)


def mean_per_sequence(values: Tensor, layout: Layout) -> Tensor:
    """Mean over the tokens of each sequence: (T, C) to (B, C), in float32, or float64 for float64 values."""
    values = values.to(statistics_dtype(values))
    parts, first = [], 0
    for count, length in layout:
        stop = first + count * length
        parts.append(values[first:stop].view(count, length, -1).mean(1))
        first = stop
    return torch.cat(parts)


def statistics_dtype(values: Tensor) -> torch.dtype:
    """Precision of losses, softmax statistics and means: float32, or float64 for float64 values."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32
