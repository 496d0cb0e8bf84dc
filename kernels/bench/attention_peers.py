"""Who runs varlen attention beside us: fused library calls, padding, explicit products, block masks.

Letters: c sequences of a run of equal lengths l, H heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.attention import BACKENDS
from kernels.bench.attention import AttentionInputs, call_backend
from kernels.bench.backend_peers import backend_peers
from kernels.bench.records import AbsentError, Case, Peer, Run
from kernels.varlen import layout_groups, positions, sequence_ids

# Each shape costs a compilation of many seconds.
_FLEX_CASES = frozenset({"mix10_40", "len100", "len800"})


def attention_peers(case: Case) -> Iterator[Peer]:
    """All peers of one case, our backends first."""
    yield from backend_peers("attention", BACKENDS, attention_backend)
    yield Peer(name="sdpa_per_modality", build=lambda inputs: _per_run(inputs, None))
    yield Peer(name="sdpa_flash", build=lambda inputs: _per_run(inputs, "FLASH_ATTENTION"))
    yield Peer(name="sdpa_efficient", build=lambda inputs: _per_run(inputs, "EFFICIENT_ATTENTION"))
    yield Peer(name="sdpa_cudnn", build=lambda inputs: _per_run(inputs, "CUDNN_ATTENTION"))
    yield Peer(name="sdpa_padded", build=_padded)
    yield Peer(name="bmm_whole", build=_explicit)
    yield Peer(name="flex", build=_flex if case.name in _FLEX_CASES else _flex_left_out)


def _packed(forward: Any, leaf: Tensor, inputs: AttentionInputs) -> Run:
    """A run from packed qkv to packed output."""
    return Run(
        forward=forward,
        leaves=(leaf,),
        upstream=(inputs.upstream,),
        results=lambda outputs, gradients: {"output": outputs[0], "d_qkv": gradients[0]},
    )


def attention_backend(inputs: AttentionInputs, name: str) -> Run:
    """The op by the backend ``name``."""
    leaf = inputs.qkv.detach().requires_grad_()
    return _packed(lambda: (call_backend(inputs, leaf, name),), leaf, inputs)


def _per_run(inputs: AttentionInputs, kind: str | None) -> Run:
    """One dense call per modality, each on its own projection output: nothing padded, nothing concatenated."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if kind is not None and inputs.qkv.device.type != "cuda":
        raise AbsentError("a choice among CUDA kernels; the CPU has one fused kernel, sdpa_per_modality")
    groups = list(layout_groups(inputs.layout))
    leaves = tuple(
        inputs.qkv[first : first + count * length].detach().unflatten(0, (count, length)).requires_grad_()
        for first, count, length in groups
    )
    upstream = tuple(
        inputs.upstream[first : first + count * length].unflatten(0, (count, length)) for first, count, length in groups
    )

    def forced() -> AbstractContextManager[None]:
        return nullcontext() if kind is None else sdpa_kernel(getattr(SDPBackend, kind))

    def forward() -> tuple[Tensor, ...]:
        with forced():
            return tuple(
                scaled_dot_product_attention(*leaf.permute(2, 0, 3, 1, 4).unbind(0)).transpose(1, 2) for leaf in leaves
            )

    def results(outputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {
            "output": torch.cat([out.flatten(0, 1) for out in outputs]),
            "d_qkv": torch.cat([gradient.flatten(0, 1) for gradient in gradients]),
        }

    return Run(forward=forward, leaves=leaves, upstream=upstream, results=results)


def _padded(inputs: AttentionInputs) -> Run:
    """Everything padded to the longest sequence, with a mask of the real keys."""
    total, _, heads, head_dim = inputs.qkv.shape
    num_sequences = inputs.cu_seqlens.shape[0] - 1
    if len({length for _, length in inputs.layout}) == 1:
        raise AbsentError("nothing to pad: all sequences have one length")
    place = sequence_ids(inputs.cu_seqlens, total) * inputs.max_seqlen + positions(inputs.cu_seqlens, total)
    mask = torch.zeros(num_sequences * inputs.max_seqlen, dtype=torch.bool, device=inputs.qkv.device)
    mask[place] = True
    mask = mask.view(num_sequences, 1, 1, inputs.max_seqlen)
    leaf = inputs.qkv.detach().requires_grad_()

    def forward() -> tuple[Tensor, ...]:
        wide = leaf.new_zeros(num_sequences * inputs.max_seqlen, 3, heads, head_dim).index_copy(0, place, leaf)
        q, k, v = wide.view(num_sequences, inputs.max_seqlen, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return (out.transpose(1, 2).flatten(0, 1).index_select(0, place),)

    return _packed(forward, leaf, inputs)


class _Explicit(torch.autograd.Function):
    """Two batched products forward and four backward on whole runs; keeps q, k, v and the probabilities."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, scale: float, *groups: tuple[int, int, int]) -> Tensor:
        out = qkv.new_empty(qkv.shape[0], *qkv.shape[2:])
        kept: list[Tensor] = []
        for first, count, length in groups:
            q, k, v = (
                part.reshape(-1, length, qkv.shape[3])
                for part in _view(qkv, first, count, length).permute(2, 0, 3, 1, 4)
            )
            probs = torch.softmax(torch.baddbmm(q.new_empty(1), q, k.mT, beta=0, alpha=scale), -1)
            result = torch.bmm(probs, v).view(count, -1, length, qkv.shape[3])
            _view(out, first, count, length).copy_(result.transpose(1, 2))
            kept += [q, k, v, probs]
        ctx.save_for_backward(*kept)
        ctx.scale, ctx.groups, ctx.shape = scale, groups, qkv.shape
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kept: Sequence[Tensor] = ctx.saved_tensors
        gradient = grads[0].new_empty(ctx.shape)
        for index, (first, count, length) in enumerate(ctx.groups):
            q, k, v, probs = kept[4 * index : 4 * index + 4]
            d_out = _view(grads[0], first, count, length).transpose(1, 2).reshape(q.shape)
            d_v = torch.bmm(probs.mT, d_out)
            d_scores = torch.ops.aten._softmax_backward_data(torch.bmm(d_out, v.mT), probs, -1, probs.dtype)
            d_q = torch.baddbmm(q.new_empty(1), d_scores, k, beta=0, alpha=ctx.scale)
            d_k = torch.baddbmm(q.new_empty(1), d_scores.mT, q, beta=0, alpha=ctx.scale)
            parts = _view(gradient, first, count, length).permute(2, 0, 3, 1, 4)
            for part, value in zip(parts, (d_q, d_k, d_v), strict=True):
                part.copy_(value.view(part.shape))
        return gradient, None, *(None for _ in ctx.groups)


def _view(packed: Tensor, first: int, count: int, length: int) -> Tensor:
    return packed[first : first + count * length].unflatten(0, (count, length))


def _explicit(inputs: AttentionInputs) -> Run:
    groups = list(layout_groups(inputs.layout))
    leaf = inputs.qkv.detach().requires_grad_()

    def forward() -> tuple[Tensor, ...]:
        out: Tensor = _Explicit.apply(leaf, inputs.scale, *groups)
        return (out,)

    return _packed(forward, leaf, inputs)


def _flex_left_out(inputs: AttentionInputs) -> Run:
    raise AbsentError(f"compiled once per shape, so it runs in {', '.join(sorted(_FLEX_CASES))} alone")


def block_mask(cu_seqlens: Tensor, total: int, *, compiled: bool) -> Any:
    """FlexAttention's map of the blocks that hold a pair of one sequence."""
    from torch.nn.attention.flex_attention import create_block_mask

    owner = sequence_ids(cu_seqlens, total)

    def same(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return owner[query] == owner[key]

    return create_block_mask(same, None, None, total, total, device=str(cu_seqlens.device), _compile=compiled)


def _flex(inputs: AttentionInputs) -> Run:
    """FlexAttention compiled, its block mask built beforehand."""
    from torch.nn.attention.flex_attention import flex_attention

    if inputs.qkv.device.type != "cuda":
        raise AbsentError("FlexAttention has no backward on the CPU")
    torch._dynamo.reset()
    mask = block_mask(inputs.cu_seqlens, inputs.qkv.shape[0], compiled=True)
    compiled = torch.compile(flex_attention, dynamic=False)
    leaf = inputs.qkv.detach().requires_grad_()

    def forward() -> tuple[Tensor, ...]:
        q, k, v = leaf.permute(1, 2, 0, 3).unsqueeze(1)
        out: Tensor = compiled(q, k, v, block_mask=mask, scale=inputs.scale)
        return (out[0].transpose(0, 1),)

    return _packed(forward, leaf, inputs)
