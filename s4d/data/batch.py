"""The records that cross the border between data and model: uint8 pixels and one packed token stream.

Letters: n samples of a group, B sequences of the batch (images first, then clips), T tokens, V visible, M masked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.patch import Erase, Mix

MODALITIES = ("image", "video")


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelGroup:
    """Decoded samples of one modality and one shape; `pixels` is uint8 (n, frames, height, width, 3)."""

    pixels: Tensor
    modality: str
    sample_ids: tuple[str, ...]
    mix: Mix | None = None
    erase: Erase | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 5 or self.pixels.shape[-1] != 3:
            raise ValueError(f"pixels: expected (n, frames, height, width, 3), got {tuple(self.pixels.shape)}")
        if self.modality not in MODALITIES:
            raise ValueError(f"modality: expected one of {MODALITIES}, got {self.modality!r}")
        if len(self.sample_ids) != self.pixels.shape[0]:
            raise ValueError(f"sample_ids: expected {self.pixels.shape[0]} entries, got {len(self.sample_ids)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadTargets:
    """Soft targets of one classification head: `sequences` (m,) int64 indexes the batch, `targets` is (m, classes).

    A head without a sample in the batch is present with m = 0, so that every head contributes to every step.
    """

    head: str
    modality: str
    sequences: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedBatch:
    """One micro batch: pixel groups and the token table of all sequences, end to end.

    Tokens of a sequence are in raster order (temporal slice, row, column); sequences follow the groups. `layout` is
    the host tuple of (count, length) runs behind `cu_seqlens`; the `_visible` fields describe the encoder's stream
    (all tokens in fine-tuning, where `masked_indices` is empty). `masked_indices` are the tokens to predict: all that
    are not visible, or fewer, of which `layout_masked` then states the runs. `step_samples` is the number of samples of
    each modality in the whole optimizer step, over ranks and accumulation: the normaliser of the losses. Router noise
    is drawn from `noise_keys` (B,) and `layer_keys` (blocks,), see `kernels.philox.layer_key`.
    """

    groups: tuple[PixelGroup, ...]
    cu_seqlens: Tensor
    max_seqlen: int
    layout: tuple[tuple[int, int], ...]
    visible_indices: Tensor
    masked_indices: Tensor
    cu_seqlens_visible: Tensor
    max_seqlen_visible: int
    layout_visible: tuple[tuple[int, int], ...]
    positions: Tensor
    modality: Tensor
    heads: tuple[HeadTargets, ...]
    step_samples: dict[str, int]
    noise_keys: Tensor
    layer_keys: Tensor
    drop_path_keep: Tensor | None = None
    layout_masked: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        sequences = sum(group.pixels.shape[0] for group in self.groups)
        for name in ("cu_seqlens", "cu_seqlens_visible"):
            if getattr(self, name).shape != (sequences + 1,):
                raise ValueError(f"{name}: expected ({sequences + 1},), got {tuple(getattr(self, name).shape)}")
        for name in ("modality", "noise_keys"):
            if getattr(self, name).shape != (sequences,):
                raise ValueError(f"{name}: expected ({sequences},), got {tuple(getattr(self, name).shape)}")
        tokens = sum(count * length for count, length in self.layout)
        if self.positions.shape != (tokens,):
            raise ValueError(f"positions: expected ({tokens},), got {tuple(self.positions.shape)}")
        visible, masked = self.visible_indices.numel(), self.masked_indices.numel()
        if self.layout_masked is None and visible + masked != tokens:
            raise ValueError(f"visible and masked tokens: expected {tokens} in all, got {visible} and {masked}")
        if self.layout_masked is not None:
            wanted = sum(count * length for count, length in self.layout_masked)
            if masked != wanted or visible + masked > tokens:
                raise ValueError(
                    f"masked_indices: expected {wanted} tokens of the {tokens - visible} that are not visible, "
                    f"got {masked}"
                )

    @property
    def num_sequences(self) -> int:
        """Sequences in the batch."""
        return int(self.modality.shape[0])

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """Ids of the sequences, in their order."""
        return tuple(name for group in self.groups for name in group.sample_ids)

    def row_owners(self, rows: int) -> Tensor | None:
        """Sequence of each row, for rows of sequences, tokens, visible, masked or decoded tokens; else None."""
        sequences = torch.arange(self.num_sequences)
        if rows == self.num_sequences:
            return sequences
        for borders in (self.cu_seqlens, self.cu_seqlens_visible):
            lengths = borders.diff().cpu()
            if rows == int(lengths.sum()):
                return sequences.repeat_interleave(lengths)
        masked = torch.searchsorted(self.cu_seqlens.cpu().long(), self.masked_indices.cpu(), right=True) - 1
        if rows == masked.numel():
            return masked
        # Where not all masked tokens are predicted, the decoder's stream is those that are and the visible ones.
        lengths = self.cu_seqlens_visible.diff().cpu() + masked.bincount(minlength=self.num_sequences)
        return sequences.repeat_interleave(lengths) if rows == int(lengths.sum()) else None

    def store(self) -> tuple[dict[str, Tensor], Any]:
        """Named tensors and the JSON-ready rest, see `s4d.data.batch_store`."""
        from s4d.data.batch_store import store_batch

        return store_batch(self)

    def to(self, device: torch.device) -> PackedBatch:
        """Copy of the batch with every tensor on `device`."""
        return self.apply(lambda tensor: tensor.to(device, non_blocking=True))

    def apply(self, function: Callable[[Tensor], Tensor]) -> PackedBatch:
        """The batch with `function` of every tensor in its place."""
        result = _applied(self, function)
        assert isinstance(result, PackedBatch)
        return result


def _applied(value: object, function: Callable[[Tensor], Tensor]) -> object:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(_applied(item, function) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {item.name: _applied(getattr(value, item.name), function) for item in dataclasses.fields(value)}
        return type(value)(**fields)
    return value
