"""The packed token stream as modules see it: borders and index tables, built once per batch without a host sync."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from s4d.data.batch import PackedBatch

Layout = tuple[tuple[int, int], ...]


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
