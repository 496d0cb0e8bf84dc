"""A decoder in which mask tokens look at the visible tokens and not at each other.

As in CrossMAE: each token to predict is a query, its sequence's visible tokens are keys and values. What is computed
for a token does not depend on which others are asked for, and no work is done on visible tokens but their keys and
values.

Letters: V visible tokens, M tokens to predict, D width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4d.models.sizes import Architecture
from s4d.models.stream import Pairs
from s4d.models.vit import LAYER_NORM_EPS, Mlp


def cross_attention(queries: Tensor, memory: Tensor, pairs: Pairs) -> Tensor:
    """Queries (M, H, D / H) of each sequence over its own keys and values (V, 2, H, D / H): (M, H, D / H).

    `pairs` are runs (sequences, queries of one, keys of one). Counts within a run are equal, so each run is one dense
    call of torch's `scaled_dot_product_attention`, without padding or masks.
    """
    asked = queries.split([count * length for count, length, _ in pairs])
    seen = memory.split([count * length for count, _, length in pairs])
    mixed = []
    for (count, _, length), query, pair in zip(pairs, asked, seen, strict=True):
        keys, values = pair.unflatten(0, (count, length)).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query.unflatten(0, (count, -1)).transpose(1, 2), keys, values)
        mixed.append(found.transpose(1, 2).flatten(0, 1))
    return torch.cat(mixed)


class CrossAttention(nn.Module):
    """Multi-head attention to a memory. Keys and values have no bias: softmax would cancel or pass it on unchanged."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor, pairs: Pairs) -> Tensor:
        """(M, D) and (V, D) to (M, D)."""
        queries = self.q(x).unflatten(1, (self.num_heads, -1))
        mixed = cross_attention(queries, self.kv(memory).unflatten(1, (2, self.num_heads, -1)), pairs)
        output: Tensor = self.proj(mixed.flatten(1))
        return output


class CrossBlock(nn.Module):
    """Pre-norm transformer block with attention to a memory in place of self-attention."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, dim * mlp_ratio)

    def forward(self, x: Tensor, memory: Tensor, pairs: Pairs) -> Tensor:
        """(M, D) and (V, D) to (M, D)."""
        x = x + self.cross_attn(self.norm1(x), memory, pairs)
        output: Tensor = x + self.mlp(self.norm2(x))
        return output


def build_cross_blocks(arch: Architecture) -> nn.ModuleList:
    """The blocks of a cross-attention decoder."""
    return nn.ModuleList(
        CrossBlock(arch.decoder_embed_dim, arch.decoder_num_heads, arch.mlp_ratio) for _ in range(arch.decoder_depth)
    )
