"""Masked autoencoder over packed images and clips: only visible tokens are encoded, only masked ones predicted.

The decoder is joint, self-attention over visible and mask tokens, or cross, see `s4d.models.cross_decoder`.

Letters: T tokens, V visible, M to predict, D width, P pixel values of a token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.reconstruction import masked_loss
from kernels.reconstruction.target import target_request
from s4d.data.batch import PackedBatch
from s4d.models.cross_decoder import build_cross_blocks
from s4d.models.motion import motion_error
from s4d.models.positions import sinusoid_table
from s4d.models.sizes import Architecture
from s4d.models.stream import (
    Pairs,
    Segments,
    all_segments,
    group_tokens,
    joined,
    masked_layout,
    paired,
    statistics_dtype,
    visible_segments,
)
from s4d.models.vit import LAYER_NORM_EPS, Backends, Block, PatchEmbed, build_blocks, embed_groups, imagenet_statistics


class Encoder(nn.Module):
    """Blocks and final norm over the visible tokens; `patch_embed` makes those tokens."""

    def __init__(self, arch: Architecture, backends: Backends) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(arch, backends.get("patch"))
        self.blocks = build_blocks(arch, backends)
        self.norm = nn.LayerNorm(arch.embed_dim, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """(V, D) to (V, D)."""
        for block in self.blocks:
            x, _ = block(x, segments, None, None, ())
        output: Tensor = self.norm(x)
        return output


class ReconstructionHead(nn.Module):
    """Linear map from decoder tokens to pixel values, fused with the loss on them."""

    def __init__(self, arch: Architecture, backend: str | None) -> None:
        super().__init__()
        self.tubelet_size = arch.tubelet_size
        self.patch_size = arch.patch_size
        self.backend = backend
        self.weight = nn.Parameter(torch.empty(arch.token_values, arch.decoder_embed_dim))
        self.bias = nn.Parameter(torch.empty(arch.token_values))

    def forward(
        self, hidden: Tensor, pixels: Tensor | None = None, indices: Tensor | None = None, motion: bool = False
    ) -> Tensor:
        """Loss sum over the tokens `indices` of `pixels`, with `motion` that of the differences between their frames.

        Without pixels the predictions (M, P).
        """
        if pixels is None or indices is None:
            return F.linear(hidden, self.weight, self.bias)
        if motion:
            target = target_request(pixels, indices, self.patch_size, self.tubelet_size, statistics_dtype(hidden))
            return motion_error(hidden, self.weight, self.bias, target)
        total, _ = masked_loss(
            hidden, self.weight, self.bias, pixels, indices, tubelet_size=self.tubelet_size, backend=self.backend
        )
        return total


class Decoder(nn.Module):
    """Shallow blocks over all tokens; the norm is applied to the tokens to predict only."""

    def __init__(self, arch: Architecture, backends: Backends) -> None:
        super().__init__()
        dim = arch.decoder_embed_dim
        self.blocks = nn.ModuleList(
            Block(dim, arch.decoder_num_heads, arch.mlp_ratio, backends) for _ in range(arch.decoder_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.head = ReconstructionHead(arch, backends.get("reconstruction"))

    def forward(self, x: Tensor, segments: Segments, wanted: Tensor | None) -> Tensor:
        """(T, D) to (M, D): the tokens `wanted` (M,), or all of them."""
        for block in self.blocks:
            x, _ = block(x, segments, None, None, ())
        output: Tensor = self.norm(x if wanted is None else x.index_select(0, wanted))
        return output


class CrossDecoder(nn.Module):
    """Shallow blocks over the tokens to predict, which attend to the visible tokens of their sequence."""

    def __init__(self, arch: Architecture, backends: Backends) -> None:
        super().__init__()
        self.blocks = build_cross_blocks(arch)
        self.norm = nn.LayerNorm(arch.decoder_embed_dim, eps=LAYER_NORM_EPS)
        self.head = ReconstructionHead(arch, backends.get("reconstruction"))

    def forward(self, x: Tensor, memory: Tensor, pairs: Pairs) -> Tensor:
        """(M, D) and (V, D) to (M, D)."""
        for block in self.blocks:
            x = block(x, memory, pairs)
        output: Tensor = self.norm(x)
        return output


def unnormalised(pixels: Tensor) -> Tensor:
    """What the target is made of: uint8 pixels as they are, float (normalised) pixels brought back to [0, 1]."""
    if not pixels.is_floating_point():
        return pixels
    mean, std = imagenet_statistics(pixels.device)
    return pixels * std.to(pixels.dtype) + mean.to(pixels.dtype)


class PretrainModel(nn.Module):
    """Encoder, bridge and decoder of masked reconstruction."""

    encoder_positions: Tensor
    decoder_positions: Tensor

    def __init__(self, arch: Architecture, backends: Backends | None = None) -> None:
        super().__init__()
        self.arch = arch
        self.encoder = Encoder(arch, backends or {})
        self.encoder_to_decoder = nn.Linear(arch.embed_dim, arch.decoder_embed_dim, bias=False)
        self.mask_token = nn.Parameter(torch.empty(1, 1, arch.decoder_embed_dim))
        self.decoder = (CrossDecoder if arch.decoder == "cross" else Decoder)(arch, backends or {})
        for name, dim in (("encoder_positions", arch.embed_dim), ("decoder_positions", arch.decoder_embed_dim)):
            self.register_buffer(name, sinusoid_table(arch.position_tokens, dim), persistent=False)

    def forward(self, batch: PackedBatch, predict: bool = False, motion: bool = False) -> dict[str, Tensor]:
        """Loss sum over the tokens to predict per modality; with `predict`, "prediction" (T, P) of all instead.

        With `motion` and clips in the batch also "motion", the sum over their tokens of `s4d.models.motion`.
        """
        tokens = embed_groups(self.encoder.patch_embed, batch)
        places = batch.positions[batch.visible_indices]
        visible = self.encoder(tokens + self.encoder_positions[places].to(tokens.dtype), visible_segments(batch))
        bridged = self.encoder_to_decoder(visible)
        if self.arch.decoder == "joint" and (predict or batch.layout_masked is None):
            hidden = self._over_all(bridged, batch, predict)
        else:
            hidden = self._over_wanted(bridged, batch, predict)
        return {"prediction": self.decoder.head(hidden)} if predict else self._loss_sums(batch, hidden, motion)

    def _over_all(self, bridged: Tensor, batch: PackedBatch, predict: bool) -> Tensor:
        """The joint decoder over all tokens, in raster order."""
        filled = self.mask_token.view(1, -1).expand(batch.positions.shape[0], -1)
        filled = filled.index_copy(0, batch.visible_indices, bridged)
        filled = filled + self.decoder_positions[batch.positions].to(filled.dtype)
        hidden: Tensor = self.decoder(filled, all_segments(batch), None if predict else batch.masked_indices)
        return hidden

    def _over_wanted(self, bridged: Tensor, batch: PackedBatch, predict: bool) -> Tensor:
        """A decoder over the visible tokens and those to predict, which the joint one takes as one stream."""
        wanted = batch.positions if predict else batch.positions[batch.masked_indices]
        shown = bridged + self.decoder_positions[batch.positions[batch.visible_indices]].to(bridged.dtype)
        asked = self.mask_token.view(1, -1) + self.decoder_positions[wanted].to(bridged.dtype)
        layout = batch.layout if predict else masked_layout(batch)
        hidden: Tensor
        if self.arch.decoder == "cross":
            hidden = self.decoder(asked, shown, paired(layout, batch.layout_visible))
        else:
            hidden = self.decoder(*joined(shown, asked, paired(batch.layout_visible, layout)))
        return hidden

    def _loss_sums(self, batch: PackedBatch, hidden: Tensor, motion: bool) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        first, first_masked = 0, 0
        totals = group_tokens(batch, batch.layout)
        for group, total, masked in zip(batch.groups, totals, group_tokens(batch, masked_layout(batch)), strict=True):
            span = slice(first_masked, first_masked + masked)
            pixels, indices = unnormalised(group.pixels), batch.masked_indices[span] - first
            found = {group.modality: self.decoder.head(hidden[span], pixels, indices)}
            if motion and group.modality == "video":
                found["motion"] = self.decoder.head(hidden[span], pixels, indices, motion=True)
            for name, loss in found.items():
                sums[name] = sums[name] + loss if name in sums else loss
            first, first_masked = first + total, span.stop
        return sums
