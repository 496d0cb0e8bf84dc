"""Varlen attention as one ``scaled_dot_product_attention`` call per run of equal lengths.

On CUDA its backward repeats to the bit only under ``torch.use_deterministic_algorithms``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.varlen import Layout, detect_layout


def sdpa_attention(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, *, layout: Layout | None, scale: float) -> Tensor:
    """Attention per length group; without ``layout`` the groups come from a host copy of ``cu_seqlens``."""
    if layout is None:
        layout = detect_layout(cu_seqlens, qkv.shape[0])
    heads, dim = qkv.shape[2:]
    outputs = [qkv[:0, 0]]
    runs = [(count, length) for count, length in layout if count * length]
    for (count, length), group in zip(runs, qkv.split([count * length for count, length in runs]), strict=True):
        q, k, v = group.view(count, length, 3, heads, dim).permute(2, 0, 3, 1, 4)
        out = scaled_dot_product_attention(q, k, v, scale=scale)
        outputs.append(out.transpose(1, 2).reshape(count * length, heads, dim))
    return torch.cat(outputs)
