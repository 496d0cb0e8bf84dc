"""Varlen attention by ``torch.nn.attention.varlen``, FlashAttention 2 as built into torch.

A rival to measure against: its backward repeats to the bit only under ``torch.use_deterministic_algorithms``, so it is
used only where it is asked for by name.
"""

from __future__ import annotations

import functools
import inspect
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from kernels.backends import Facts
from kernels.varlen import Layout

_HALF = (torch.float16, torch.bfloat16)
_WIDEST_HEAD = 256


def torch_varlen_refuses(facts: Facts) -> str | None:
    """Why torch's varlen attention cannot serve the call, or None."""
    if facts["device"] != "cuda":
        return f"serves CUDA tensors, not {facts['device']}"
    return missing_torch_varlen() or unsupported(facts["dtype"], facts["head_dim"])


def unsupported(dtype: torch.dtype, head_dim: int) -> str | None:
    """Why FlashAttention 2 does not compute this, or None."""
    if dtype not in _HALF:
        return f"computes in float16 and bfloat16, not {dtype}"
    if head_dim % 8 or head_dim > _WIDEST_HEAD:
        return f"needs a head_dim that 8 divides, at most {_WIDEST_HEAD}, not {head_dim}"
    return None


@functools.cache
def missing_torch_varlen() -> str | None:
    """What this torch or its device lacks for varlen attention, or None."""
    if find_spec("torch.nn.attention.varlen") is None:
        return f"torch {torch.__version__} has no torch.nn.attention.varlen"
    if not torch.backends.cuda.is_flash_attention_available():
        return f"torch {torch.__version__} is built without FlashAttention"
    if torch.cuda.get_device_capability() < (8, 0):
        return "needs compute capability 8.0"
    return None


def torch_varlen_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, *, layout: Layout | None, scale: float
) -> Tensor:
    """Attention over ``cu_seqlens``; the layout is not needed."""
    from torch.nn.attention.varlen import varlen_attn

    if qkv.shape[0] == 0:
        return qkv[:, 0].clone()
    q, k, v = (qkv if qkv.stride(-1) == 1 else qkv.contiguous()).unbind(1)
    options: dict[str, Any] = {}
    if _takes_scale():
        options["scale"] = scale
    elif scale != qkv.shape[-1] ** -0.5:
        # The first versions know head_dim**-0.5 alone; another scale goes into the queries.
        q = q * (scale * qkv.shape[-1] ** 0.5)
    out = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, **options)
    assert isinstance(out, Tensor)
    return out


@functools.cache
def _takes_scale() -> bool:
    from torch.nn.attention.varlen import varlen_attn

    return "scale" in inspect.signature(varlen_attn).parameters
