"""Transformer blocks over a packed token stream; only attention knows where sequences begin and end.

Letters: T tokens, V visible tokens, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.attention import varlen_attention
from kernels.patch import Erase, Mix, embed_visible
from s4d.data.batch import PackedBatch
from s4d.models.gelu_linear import GeluLinear
from s4d.models.moae import MoaeAdapters, RoutingTerms
from s4d.models.sizes import Architecture, MoaeArchitecture
from s4d.models.stream import RouterNoise, Segments, group_tokens

LAYER_NORM_EPS = 1e-6
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Backends = Mapping[str, str]
BlockNoise = RouterNoise | Tensor | None


@lru_cache(maxsize=8)
def imagenet_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3,) float32 of pixels in [0, 1].

    Not a buffer: casting the model to bfloat16 must not round them.
    """
    return torch.tensor(IMAGENET_MEAN, device=device), torch.tensor(IMAGENET_STD, device=device)


class PatchProjection(nn.Module):
    """Weight and bias of the tubelet convolution, applied to wanted tokens only."""

    def __init__(self, arch: Architecture, backend: str | None) -> None:
        super().__init__()
        patch = arch.patch_size
        self.backend = backend
        self.weight = nn.Parameter(torch.empty(arch.embed_dim, 3, arch.tubelet_size, patch, patch))
        self.bias = nn.Parameter(torch.empty(arch.embed_dim))

    def forward(self, pixels: Tensor, indices: Tensor, mix: Mix | None, erase: Erase | None) -> Tensor:
        """Tokens (m, D) of the group's token `indices` (m,)."""
        mean, std = imagenet_statistics(pixels.device)
        return embed_visible(
            pixels, indices, self.weight, self.bias, mean, std, mix=mix, erase=erase, backend=self.backend
        )


class PatchEmbed(nn.Module):
    """Tubelet embedding of one pixel group."""

    def __init__(self, arch: Architecture, backend: str | None = None) -> None:
        super().__init__()
        self.proj = PatchProjection(arch, backend)

    def forward(self, pixels: Tensor, indices: Tensor, mix: Mix | None, erase: Erase | None) -> Tensor:
        """Tokens (m, D) of the group's token `indices` (m,)."""
        tokens: Tensor = self.proj(pixels, indices, mix, erase)
        return tokens


def embed_groups(patch_embed: PatchEmbed, batch: PackedBatch) -> Tensor:
    """Embed the visible tokens of every pixel group, in stream order, (V, D)."""
    parts, first, first_visible = [], 0, 0
    totals = group_tokens(batch, batch.layout)
    for group, total, visible in zip(batch.groups, totals, group_tokens(batch, batch.layout_visible), strict=True):
        indices = batch.visible_indices[first_visible : first_visible + visible] - first
        parts.append(patch_embed(group.pixels, indices, group.mix, group.erase))
        first, first_visible = first + total, first_visible + visible
    return torch.cat(parts)


class QkvProjection(nn.Module):
    """Fused projection whose bias is made by the attention module (queries and values have one, keys have none)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3 * dim, dim))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(T, D) to (T, 3 D)."""
        return F.linear(x, self.weight, bias)


class Attention(nn.Module):
    """Multi-head self-attention inside each sequence of the stream."""

    def __init__(self, dim: int, num_heads: int, backend: str | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.backend = backend
        self.qkv = QkvProjection(dim)
        self.q_bias = nn.Parameter(torch.empty(dim))
        self.v_bias = nn.Parameter(torch.empty(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """(T, D) to (T, D)."""
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = self.qkv(x, bias).view(x.shape[0], 3, self.num_heads, -1)
        mixed = varlen_attention(
            qkv, segments.cu_seqlens, segments.max_seqlen, layout=segments.layout, backend=self.backend
        )
        output: Tensor = self.proj(mixed.flatten(1))
        return output


class Mlp(nn.Module):
    """Two linear layers with exact GELU between them."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = GeluLinear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(T, D) to (T, D)."""
        output: Tensor = self.fc2(self.fc1(x))
        return output


class Block(nn.Module):
    """Pre-norm transformer block, in the upper layers with adapter experts beside the MLP."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int, backends: Backends) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads, backends.get("attention"))
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, dim * mlp_ratio)
        self.moae: MoaeAdapters | None = None

    def forward(
        self, x: Tensor, segments: Segments, keep: Tensor | None, noise: BlockNoise, groups: tuple[int, ...]
    ) -> tuple[Tensor, RoutingTerms | None]:
        """(T, D) to (T, D); `keep` (T, 1) scales both branches (drop path of the token's sequence)."""
        branch = self.attn(self.norm1(x), segments)
        x = x + (branch if keep is None else branch * keep)
        y = self.norm2(x)
        branch, terms = self.mlp(y), None
        if self.moae is not None:
            branch, terms = self.moae(y, branch, noise, groups)
        return x + (branch if keep is None else branch * keep), terms


def build_blocks(arch: Architecture, backends: Backends) -> nn.ModuleList:
    """The encoder's blocks, with experts where the architecture has them."""
    blocks = [Block(arch.embed_dim, arch.num_heads, arch.mlp_ratio, backends) for _ in range(arch.depth)]
    experts: MoaeArchitecture | None = arch.experts
    for layer in experts.layers if experts is not None else ():
        assert experts is not None
        blocks[layer].moae = MoaeAdapters(arch.embed_dim, experts, backends.get("moae"))
    return nn.ModuleList(blocks)
