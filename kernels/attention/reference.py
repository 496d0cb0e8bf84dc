"""The definition of varlen attention: one sequence after the other, the softmax written out."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.varlen import Layout, detect_layout


def reference_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, *, layout: Layout | None, scale: float
) -> Tensor:
    """Attention in float32 (float64 for float64 input) over sequences read from the host copy of ``cu_seqlens``."""
    lengths = [length for count, length in detect_layout(cu_seqlens, qkv.shape[0]) for _ in range(count)]
    if max(lengths, default=0) > max_seqlen:
        raise ValueError(f"max_seqlen: expected at least {max(lengths)}, the longest sequence, got {max_seqlen}")
    wide = qkv.to(torch.promote_types(qkv.dtype, torch.float32))
    outputs = [wide[:0, 0]]
    for sequence in wide.split(lengths):
        q, k, v = sequence.permute(1, 2, 0, 3)
        scores = q @ k.transpose(-2, -1) * scale
        if scores.numel():
            shifted = torch.exp(scores - scores.amax(-1, keepdim=True))
            outputs.append((shifted / shifted.sum(-1, keepdim=True) @ v).transpose(0, 1))
    return torch.cat(outputs).to(qkv.dtype)
