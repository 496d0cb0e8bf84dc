"""Joint static and dynamic expression classifier: packed encoder, mean pooling, one linear head per source.

Letters: B sequences, T tokens, D width, K classes of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from s4d.data.batch import PackedBatch
from s4d.models.moae import RoutingTerms
from s4d.models.positions import sinusoid_table
from s4d.models.sizes import Architecture
from s4d.models.stream import (
    RouterNoise,
    all_segments,
    image_tokens,
    mean_per_sequence,
    sequence_ids,
    statistics_dtype,
)
from s4d.models.vit import LAYER_NORM_EPS, Backends, BlockNoise, PatchEmbed, build_blocks, embed_groups


class ClassifierOutput(NamedTuple):
    """Logits (B, K) of every head for every sequence, pooled features (B, D) and the terms of each MoAE layer."""

    logits: dict[str, Tensor]
    features: Tensor
    routing: tuple[RoutingTerms, ...]


class HeadNameError(ValueError):
    """A head cannot be called so."""


class FinetuneModel(nn.Module):
    """Encoder with optional adapter experts, pooled over all tokens; `heads` maps head names to class counts.

    HeadNameError for a head that cannot be called so.
    """

    positions: Tensor

    def __init__(self, arch: Architecture, heads: Mapping[str, int], backends: Backends | None = None) -> None:
        super().__init__()
        self.arch = arch
        self.patch_embed = PatchEmbed(arch, (backends or {}).get("patch"))
        self.blocks = build_blocks(arch, backends or {})
        self.fc_norm = nn.LayerNorm(arch.embed_dim, eps=LAYER_NORM_EPS)
        try:
            self.head = nn.ModuleDict({name: nn.Linear(arch.embed_dim, classes) for name, classes in heads.items()})
        except KeyError as error:
            # Its name may hold no dot and be no attribute of a dictionary of modules, such as `train`.
            raise HeadNameError(f"a head with such a name cannot be built: {error.args[0]}") from error
        self.register_buffer("positions", sinusoid_table(arch.position_tokens, arch.embed_dim), persistent=False)

    def forward(self, batch: PackedBatch, noise: tuple[Tensor, ...] | None = None) -> ClassifierOutput:
        """Run all tokens of the batch; every head is applied to every sequence, so that all of them always take part.

        `noise` replaces the keyed router noise of each MoAE layer by unit normals (T, experts).
        """
        tokens = embed_groups(self.patch_embed, batch)
        x = tokens + self.positions[batch.positions].to(tokens.dtype)
        segments = all_segments(batch)
        groups = (0, image_tokens(batch, batch.layout), x.shape[0])
        owner = sequence_ids(batch.layout, x.device)
        sample_key = batch.noise_keys[owner]
        routing: list[RoutingTerms] = []
        for layer, block in enumerate(self.blocks):
            keep = None
            if batch.drop_path_keep is not None and self.training:
                keep = batch.drop_path_keep[layer].to(x.dtype)[owner, None]
            block_noise: BlockNoise = None
            if block.moae is not None:
                # A key per block, not its number: compiled blocks are one piece of code for all of them.
                key = batch.layer_keys[layer : layer + 1]
                block_noise = RouterNoise(key, sample_key, batch.positions) if noise is None else noise[len(routing)]
            x, terms = block(x, segments, keep, block_noise, groups)
            if terms is not None:
                routing.append(terms)
        features = self.fc_norm(mean_per_sequence(x, batch.layout).to(x.dtype))
        logits = {name: head(features).to(statistics_dtype(features)) for name, head in self.head.items()}
        return ClassifierOutput(logits, features, tuple(routing))
