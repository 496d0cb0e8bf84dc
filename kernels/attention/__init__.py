"""Block-diagonal self-attention over packed sequences.

Every backend computes what ``reference`` defines. The automatic choice is the first row of ``BACKENDS`` that accepts
the call. On CPUs the order follows ``s4d bench attention --device cpu``, with its results in
``benchmarks/results/cpu-2c-amd-epyc/all.json``: in bfloat16 ``native`` takes a third to a half of the time of
``grouped``; in float32 ``grouped`` takes less than half of ``sdpa`` at lengths 10 and 40 and no less at 800. On CUDA
Triton's row comes first. Other processes on the cores cost ``grouped`` more than ``sdpa``, since it synchronises its
threads more often.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.attention.grouped import grouped_attention
from kernels.attention.reference import reference_attention
from kernels.attention.sdpa import sdpa_attention
from kernels.attention.tiles import HEAD_DIMS
from kernels.attention.torch_varlen import torch_varlen_refuses
from kernels.attention.xformers import xformers_refuses
from kernels.backends import Backend, Facts, resolve
from kernels.launch import is_interpreted, triton_refuses
from kernels.native import attention_refuses
from kernels.varlen import Layout, check_layout


def _needs_groups(facts: Facts) -> str | None:
    if not facts["layout_known"] and facts["device"] != "cpu":
        return "layout is unknown and finding it would make the host wait for the device"
    return None


def _native_refuses(facts: Facts) -> str | None:
    if facts["device"] != "cpu":
        return f"serves CPU tensors, not {facts['device']}"
    if facts["dtype"] != torch.bfloat16:
        return f"multiplies bfloat16, not {facts['dtype']}"
    return attention_refuses(facts["head_dim"])


def _triton_refuses(facts: Facts) -> str | None:
    if facts["dtype"] not in (torch.float32, torch.float16, torch.bfloat16):
        return f"computes in float32, float16 and bfloat16, not {facts['dtype']}"
    if facts["head_dim"] not in HEAD_DIMS:
        return f"has tiles for head_dim {', '.join(map(str, HEAD_DIMS))}, not {facts['head_dim']}"
    reason = triton_refuses(facts)
    if reason is None and facts["dtype"] == torch.bfloat16 and is_interpreted():
        return "Triton's interpreter multiplies bfloat16 wrongly"
    return reason


BACKENDS: dict[str, Backend] = {
    "native": Backend(name="native", function="kernels.attention.native:native_attention", refuse=_native_refuses),
    "grouped": Backend(name="grouped", function=grouped_attention, refuse=_needs_groups),
    "sdpa": Backend(name="sdpa", function=sdpa_attention, refuse=_needs_groups),
    "reference": Backend(name="reference", function=reference_attention),
    # Never an automatic choice, since the reference serves all: their backward does not repeat to the bit.
    "torch_varlen": Backend(
        name="torch_varlen",
        function="kernels.attention.torch_varlen:torch_varlen_attention",
        refuse=torch_varlen_refuses,
    ),
    "xformers": Backend(
        name="xformers", function="kernels.attention.xformers:xformers_attention", refuse=xformers_refuses
    ),
    "triton": Backend(name="triton", function="kernels.attention.triton_op:triton_attention", refuse=_triton_refuses),
}
_ON_CUDA = {"triton": BACKENDS["triton"], **BACKENDS}
# On a CPU in float32, sequences from this length on take sdpa as long as grouped, or a few per cent less.
_LONG = 512
_LONG_FLOAT32 = {"sdpa": BACKENDS["sdpa"], **BACKENDS}


def candidates(
    *, device: str, dtype: torch.dtype, head_dim: int, max_seqlen: int, layout_known: bool
) -> tuple[dict[str, Backend], dict[str, object]]:
    """Rows for such a call in order of preference, and the facts that they may refuse."""
    # The long float32 calls on a CPU have an order of their own.
    long = device == "cpu" and dtype == torch.float32 and max_seqlen >= _LONG
    table = _ON_CUDA if device == "cuda" else _LONG_FLOAT32 if long else BACKENDS
    facts = {"device": device, "dtype": dtype, "head_dim": head_dim, "layout_known": layout_known}
    return table, {**facts, "long": True} if long else facts


def varlen_attention(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    layout: Layout | None = None,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Softmax attention of every token over its own sequence: ``qkv`` (T, 3, H, D) -> (T, H, D).

    ``cu_seqlens`` is int32 (B+1,); zero-length sequences are allowed. ``layout``, the same on the host as runs
    (count, length), spares group detection and device-built maps. ``scale`` defaults to D**-0.5. The backward writes
    the gradient in the layout of ``qkv`` and repeats to the bit. Raises ValueError for shapes that disagree and for a
    requested ``backend`` that cannot serve the call.
    """
    if qkv.ndim != 4 or qkv.shape[1] != 3 or not qkv.is_floating_point():
        raise ValueError(f"qkv: expected floating point (T, 3, H, D), got {qkv.dtype} {tuple(qkv.shape)}")
    if cu_seqlens.ndim != 1 or cu_seqlens.dtype != torch.int32 or cu_seqlens.shape[0] < 1:
        raise ValueError(f"cu_seqlens: expected int32 (B+1,), got {cu_seqlens.dtype} {tuple(cu_seqlens.shape)}")
    if cu_seqlens.device != qkv.device:
        raise ValueError(f"cu_seqlens: expected on {qkv.device} like qkv, got {cu_seqlens.device}")
    if max_seqlen < 0:
        raise ValueError(f"max_seqlen: expected a non-negative integer, got {max_seqlen}")
    if layout is not None:
        check_layout(layout, num_sequences=cu_seqlens.shape[0] - 1, total_tokens=qkv.shape[0], max_seqlen=max_seqlen)
    table, facts = candidates(
        device=qkv.device.type,
        dtype=qkv.dtype,
        head_dim=qkv.shape[3],
        max_seqlen=max_seqlen,
        layout_known=layout is not None,
    )
    chosen = resolve("attention", table, backend, **facts)
    out: Tensor = chosen.load()(
        qkv, cu_seqlens, max_seqlen, layout=layout, scale=qkv.shape[3] ** -0.5 if scale is None else scale
    )
    return out
