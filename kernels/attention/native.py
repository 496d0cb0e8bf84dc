"""CPU backend for bfloat16: the native library takes each head of each sequence by itself, all in registers and cache.

qkv is read and its gradient written where they lie; nothing but qkv is kept for the backward, which recomputes the
probabilities. Scores and softmax are float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.native.ops import attend, attend_backward
from kernels.varlen import Layout


def native_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, *, layout: Layout | None, scale: float
) -> Tensor:
    """Attention of every sequence; ``layout`` is not needed."""
    out: Tensor = _forward(qkv, cu_seqlens, scale)
    return out


@torch.library.custom_op("s4d::native_attention", mutates_args=(), device_types="cpu")
def _forward(qkv: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    return attend(qkv, cu_seqlens, scale)


@_forward.register_fake
def _(qkv: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    return qkv.new_empty(qkv.shape[0], *qkv.shape[2:])


@torch.library.custom_op("s4d::native_attention_backward", mutates_args=(), device_types="cpu")
def _backward(grad_out: Tensor, qkv: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    return attend_backward(grad_out, qkv, cu_seqlens, scale)


@_backward.register_fake
def _(grad_out: Tensor, qkv: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, cu_seqlens, ctx.scale = inputs
    ctx.save_for_backward(qkv, cu_seqlens)


def _autograd(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None]:
    return _backward(grad_out, *ctx.saved_tensors, ctx.scale), None, None


_forward.register_autograd(_autograd, setup_context=_setup_context)
