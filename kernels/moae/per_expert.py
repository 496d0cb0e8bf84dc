"""Chosen experts only, one expert after the other with all of its tokens: for CPUs, where a loop costs nothing.

An expert's rows pass through both of its layers while they are in the cache, and nothing of their width is kept. The
row ranges are read on the host, which only CPU tensors give for free. A token adds up its rows in the order of its
choices, so every run gives the same bits. Letters: T tokens, D width, E experts, Hd hidden width, R = T * k slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

from kernels.moae.records import Experts, MoAERecord, MoAERequest, Router
from kernels.moae.router import dense_gates, record, route

# Tokens combined at a time: their rows in float32 fit in the cache of a core.
_COMBINED_TOKENS = 512


def _wide(values: Tensor) -> Tensor:
    """``values`` in float32, or as they are if wider: between two matmuls half precision is rounded to once."""
    return values if values.dtype == torch.float64 else values.float()


def _experts_rows(expert_offsets: Tensor) -> Iterator[tuple[int, slice]]:
    """Each expert that serves a token, with its slots."""
    for expert, (start, end) in enumerate(pairwise(expert_offsets.tolist())):
        if end > start:
            yield expert, slice(start, end)


def _combine(rows: Tensor, slots: Tensor, kept: Tensor | None, added: Tensor | None, out: Tensor) -> Tensor:
    """Fill ``out`` (T, D) with ``added`` plus the kept rows of each token, summed in float32 or wider."""
    for token in range(0, slots.shape[0], _COMBINED_TOKENS):
        block = slice(token, token + _COMBINED_TOKENS)
        total = None if added is None else _wide(added[block])
        for choice in range(slots.shape[1]):
            part = _wide(rows.index_select(0, slots[block, choice]))
            if kept is not None:
                # Nothing has written the rows of dropped assignments.
                part = torch.where(kept[block, choice, None], part, 0.0)
            total = part if total is None else total + part
        assert total is not None
        out[block] = total
    return out


@torch.library.custom_op("s4d::per_expert", mutates_args=(), device_types="cpu")
def _forward(
    x: Tensor,
    slot_gates: Tensor,
    fc1: Tensor,
    fc1_bias: Tensor,
    fc2: Tensor,
    added: Tensor,
    offsets: Tensor,
    order: Tensor,
    slots: Tensor,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Output (T, D) = ``added`` + sum of gate * W2 gelu(W1 x + b1), and the pre-activations (R, Hd) of the slots."""
    tokens = order // slots.shape[1]
    rows = x.new_empty(tokens.shape[0], x.shape[1])
    preactivation = x.new_empty(tokens.shape[0], fc1.shape[1])
    for expert, served in _experts_rows(offsets):
        hidden = linear(x.index_select(0, tokens[served]), fc1[expert], fc1_bias[expert])
        preactivation[served] = hidden
        gated = (gelu(_wide(hidden)) * slot_gates[served, None]).to(x.dtype)
        torch.mm(gated, fc2[expert].t(), out=rows[served])
    return _combine(rows, slots, kept, added, torch.empty_like(x)), preactivation


@_forward.register_fake
def _(
    x: Tensor,
    slot_gates: Tensor,
    fc1: Tensor,
    fc1_bias: Tensor,
    fc2: Tensor,
    added: Tensor,
    offsets: Tensor,
    order: Tensor,
    slots: Tensor,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(order.shape[0], fc1.shape[1])


@torch.library.custom_op("s4d::per_expert_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor,
    x: Tensor,
    slot_gates: Tensor,
    fc1: Tensor,
    fc2: Tensor,
    preactivation: Tensor,
    offsets: Tensor,
    order: Tensor,
    slots: Tensor,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, slot_gates, fc1, fc1_bias and fc2."""
    tokens = order // slots.shape[1]
    d_rows = x.new_empty(tokens.shape[0], x.shape[1])
    d_gates = torch.zeros_like(slot_gates)
    d_fc1, d_fc1_bias, d_fc2 = torch.zeros_like(fc1), fc1.new_zeros(fc1.shape[:2]), torch.zeros_like(fc2)
    for expert, served in _experts_rows(offsets):
        chosen, gates = tokens[served], slot_gates[served, None]
        d_out, wide = grad.index_select(0, chosen), _wide(preactivation[served])
        hidden = gelu(wide)
        torch.mm(d_out.t(), (hidden * gates).to(x.dtype), out=d_fc2[expert])
        d_hidden = _wide(d_out @ fc2[expert])
        torch.sum(hidden.mul_(d_hidden), 1, out=d_gates[served])
        d_hidden = torch.ops.aten.gelu_backward(d_hidden.mul_(gates), wide)
        d_fc1_bias[expert] = d_hidden.sum(0)
        narrow = d_hidden.to(x.dtype)
        torch.mm(narrow.t(), x.index_select(0, chosen), out=d_fc1[expert])
        torch.mm(narrow, fc1[expert], out=d_rows[served])
    return _combine(d_rows, slots, kept, None, torch.empty_like(x)), d_gates, d_fc1, d_fc1_bias, d_fc2


@_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    slot_gates: Tensor,
    fc1: Tensor,
    fc2: Tensor,
    preactivation: Tensor,
    offsets: Tensor,
    order: Tensor,
    slots: Tensor,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(x),
        torch.empty_like(slot_gates),
        torch.empty_like(fc1),
        fc1.new_empty(fc1.shape[:2]),
        torch.empty_like(fc2),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, slot_gates, fc1, _, fc2, _, *plan = inputs
    ctx.save_for_backward(x, slot_gates, fc1, fc2, output[1], *plan)
    ctx.mark_non_differentiable(output[1])


def _autograd(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    d_x, d_gates, d_fc1, d_fc1_bias, d_fc2 = _backward(grad.contiguous(), *ctx.saved_tensors)
    return d_x, d_gates, d_fc1, d_fc1_bias, d_fc2, grad, None, None, None, None


_forward.register_autograd(_autograd, setup_context=_setup_context)


def moae(x: Tensor, router: Router, experts: Experts, request: MoAERequest) -> tuple[Tensor, MoAERecord]:
    """Output (T, D) and record of tokens ``x`` (T, D)."""
    routing = route(x, router, request)
    plan = routing.plan
    gates = dense_gates(routing)
    # The gate of each slot, read from the same (T, E) table that weighs the output biases: its gradient holds both.
    slot_gates = gates.gather(1, plan.topk_expert_ids).flatten().index_select(0, plan.order)
    added = gates.to(x.dtype) @ experts.fc2_bias
    if request.residual is not None:
        added = added + request.residual
    output, _ = _forward(
        x,
        slot_gates,
        experts.fc1_weight.contiguous(),
        experts.fc1_bias,
        experts.fc2_weight.contiguous(),
        added,
        plan.expert_offsets,
        plan.order,
        plan.slots,
        None if plan.capacity is None else plan.kept,
    )
    return output, record(routing, request)
