"""Attention rollout: how much of the pooled feature stems from each patch, if attention alone moved information.

Abnar and Zuidema, "Quantifying Attention Flow in Transformers", 2020. The fused kernels never form attention weights;
they are computed again from the projections of one sequence. Letters: t tokens of the sequence, D width, H heads,
L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def attention_weights(qkv: Tensor, num_heads: int) -> Tensor:
    """Softmax weights (H, t, t) of the projection (t, 3 D) of one sequence; rows sum to 1. At least float32."""
    query, key, _ = qkv.view(len(qkv), 3, num_heads, -1).to(torch.promote_types(qkv.dtype, torch.float32)).unbind(1)
    scores = torch.einsum("ihd,jhd->hij", query, key) * query.shape[-1] ** -0.5
    return scores.softmax(-1)


def rollout(attentions: Sequence[Tensor]) -> Tensor:
    """Share (t, t) of each input token in each output token, from head means (t, t) of each layer, first layer first.

    The residual connection is an identity of equal weight. Rows sum to 1.
    """
    identity = torch.eye(len(attentions[0])).to(attentions[0])
    total = identity
    for attention in attentions:
        mixed = attention + identity
        total = mixed / mixed.sum(1, keepdim=True) @ total
    return total


def pooled_relevance(qkvs: Sequence[Tensor], num_heads: int) -> Tensor:
    """Share (t,) of each patch in the mean over all output tokens, from the projections (t, 3 D) of each layer."""
    return rollout([attention_weights(qkv, num_heads).mean(0) for qkv in qkvs]).mean(0)
