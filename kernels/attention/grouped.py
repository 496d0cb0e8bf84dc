"""Varlen attention as batched matrix products per run of equal lengths, with a hand-written backward.

A run is a view of the packed tokens, so nothing is padded. It is worked through in blocks of sequences, or of heads of
one sequence, small enough that the scores of a block stay in the processor's cache: in float32 this takes
two thirds of the time of whole runs at lengths 10 and 40, and less than half at length 800. The backward recomputes the
probabilities of its block, which costs less there than writing and reading them and keeps nothing but ``qkv``.

Letters: c sequences and h heads of a block, l length, d head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.varlen import Layout, detect_layout, layout_groups

# Bytes of scores per block. CPU: 1 to 4 MiB measured alike, 8 MiB slower by 1.3x. Other devices want few launches.
_CPU_BLOCK_BYTES = 2 << 20
_DEVICE_BLOCK_BYTES = 1 << 28


def grouped_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, *, layout: Layout | None, scale: float
) -> Tensor:
    """Attention per length group; without ``layout`` the groups come from a host copy of ``cu_seqlens``."""
    flat_layout = [number for run in layout for number in run] if layout is not None else None
    out: Tensor = _forward(qkv, cu_seqlens, flat_layout, scale)
    return out


@torch.library.custom_op("s4d::grouped_attention", mutates_args=())
def _forward(qkv: Tensor, cu_seqlens: Tensor, flat_layout: Sequence[int] | None, scale: float) -> Tensor:
    out = qkv.new_empty(qkv.shape[0], *qkv.shape[2:])
    for (q_c, k_c, v_c), (out_c,) in _blocks(cu_seqlens, flat_layout, qkv, out[:, None]):
        q, k, v = _merge(q_c), _merge(k_c), _merge(v_c)
        out_c.copy_(torch.bmm(_probs(q, k, scale), v).view(out_c.shape))
    return out


@_forward.register_fake
def _(qkv: Tensor, cu_seqlens: Tensor, flat_layout: Sequence[int] | None, scale: float) -> Tensor:
    return qkv.new_empty(qkv.shape[0], *qkv.shape[2:])


@torch.library.custom_op("s4d::grouped_attention_backward", mutates_args=())
def _backward(
    grad_out: Tensor, qkv: Tensor, cu_seqlens: Tensor, flat_layout: Sequence[int] | None, scale: float
) -> Tensor:
    grad_qkv = qkv.new_empty(qkv.shape)
    for (dq_c, dk_c, dv_c), (q_c, k_c, v_c), (do_c,) in _blocks(
        cu_seqlens, flat_layout, grad_qkv, qkv, grad_out[:, None]
    ):
        q, k, v, do = _merge(q_c), _merge(k_c), _merge(v_c), _merge(do_c)
        probs = _probs(q, k, scale)
        dv_c.copy_(torch.bmm(probs.transpose(1, 2), do).view(dv_c.shape))
        grad_probs = torch.bmm(do, v.transpose(1, 2))
        grad_scores = torch.ops.aten._softmax_backward_data(grad_probs, probs, -1, probs.dtype)
        dq_c.copy_(_scaled_bmm(grad_scores, k, scale).view(dq_c.shape))
        dk_c.copy_(_scaled_bmm(grad_scores.transpose(1, 2), q, scale).view(dk_c.shape))
    return grad_qkv


@_backward.register_fake
def _(grad_out: Tensor, qkv: Tensor, cu_seqlens: Tensor, flat_layout: Sequence[int] | None, scale: float) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, cu_seqlens, ctx.flat_layout, ctx.scale = inputs
    ctx.save_for_backward(qkv, cu_seqlens)


def _autograd(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None, None]:
    return _backward(grad_out, *ctx.saved_tensors, ctx.flat_layout, ctx.scale), None, None, None


_forward.register_autograd(_autograd, setup_context=_setup_context)


def _blocks(
    cu_seqlens: Tensor, flat_layout: Sequence[int] | None, *packed: Tensor
) -> Iterator[tuple[tuple[Tensor, ...], ...]]:
    """Views (c, h, l, d) of one block after the other, for each tensor (T, n, H, D) a tuple of n."""
    numbers = (
        flat_layout
        if flat_layout is not None
        else [n for run in detect_layout(cu_seqlens, packed[0].shape[0]) for n in run]
    )
    heads = packed[0].shape[2]
    budget = _CPU_BLOCK_BYTES if packed[0].device.type == "cpu" else _DEVICE_BLOCK_BYTES
    for first, count, length in layout_groups(zip(numbers[::2], numbers[1::2], strict=True)):
        matrices = max(1, budget // (length * length * packed[0].element_size()))
        head_step, sequence_step = min(heads, matrices), max(1, matrices // heads)
        views = [
            tensor[first : first + count * length].unflatten(0, (count, length)).permute(2, 0, 3, 1, 4)
            for tensor in packed
        ]
        for sequence in range(0, count, sequence_step):
            for head in range(0, heads, head_step):
                block = slice(sequence, sequence + sequence_step), slice(head, head + head_step)
                yield tuple(view[:, *block].unbind(0) for view in views)


def _merge(block: Tensor) -> Tensor:
    """(c, h, l, d) -> (c h, l, d) for a batched product; copies unless the block is one sequence or one head."""
    return block.flatten(0, 1)


def _scaled_bmm(left: Tensor, right: Tensor, scale: float) -> Tensor:
    # With beta=0 the first operand is not read; alpha scales the sums before they are rounded.
    return torch.baddbmm(left.new_empty(1), left, right, beta=0, alpha=scale)


def _probs(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return torch.softmax(_scaled_bmm(q, k.transpose(1, 2), scale), -1)
