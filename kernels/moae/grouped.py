"""Chosen experts only: tokens gathered in expert order, one grouped matmul per layer, combined by gather and sum.

No loop over experts, no atomics: a token adds up its own rows in the order of its choices, so every run gives the
same bits. The backward starts from the pre-activations; R = T * k rows are slots of the plan.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu

from kernels.moae.plan import RoutingPlan
from kernels.moae.ragged import ragged_matmul, ragged_outer
from kernels.moae.records import Experts, MoAERecord, MoAERequest, Router
from kernels.moae.router import dense_gates, record, route


def _served_only(rows: Tensor, plan: RoutingPlan) -> Tensor:
    """``rows`` (R, ...) with those of dropped assignments zero; nothing has computed them."""
    if plan.capacity is None:
        return rows
    served = torch.arange(rows.shape[0], device=rows.device) < plan.expert_offsets[-1]
    return torch.where(served[:, None], rows, 0.0)


def _combine(rows: Tensor, plan: RoutingPlan) -> Tensor:
    """Sum (T, D) of the rows (R, D) of each token, in the order of its choices, in float32 or wider."""
    total = _wide(rows.index_select(0, plan.slots[:, 0]))
    for choice in range(1, plan.top_k):
        total += rows.index_select(0, plan.slots[:, choice])
    return total


def _wide(values: Tensor) -> Tensor:
    """``values`` in float32, or as they are if wider: between two matmuls half precision is rounded to once."""
    return values if values.dtype == torch.float64 else values.float()


def _slot_experts(plan: RoutingPlan) -> Tensor:
    """Expert of each slot, (R,); a dropped assignment's slot counts for the last expert."""
    slot = torch.arange(plan.order.shape[0], device=plan.order.device, dtype=torch.int32)
    return torch.searchsorted(plan.expert_offsets[1:-1], slot, right=True)


class _GroupedExperts(torch.autograd.Function):
    """sum_k gate_k * W2 gelu(W1 x + b1) in float32 or wider; ``slot_gates`` (R,) are the gates in slot order.

    Keeps W1 x of the slots, the one activation whose recomputation needs a matmul.
    """

    @staticmethod
    def forward(ctx: Any, *operands: Any) -> Tensor:
        x, slot_gates, fc1, fc1_bias, fc2, plan = operands
        rows = x.index_select(0, plan.order // plan.top_k)
        projected = _served_only(ragged_matmul(rows, fc1.transpose(1, 2), plan.expert_offsets), plan)
        bias = _wide(fc1_bias).index_select(0, _slot_experts(plan))
        gated = (gelu(projected + bias) * slot_gates[:, None]).to(x.dtype)
        ctx.save_for_backward(x, slot_gates, fc1, fc1_bias, fc2, projected)
        ctx.plan = plan
        return _combine(_served_only(ragged_matmul(gated, fc2.transpose(1, 2), plan.expert_offsets), plan), plan)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, slot_gates, fc1, fc1_bias, fc2, projected = ctx.saved_tensors
        plan: RoutingPlan = ctx.plan
        offsets, tokens, experts = plan.expert_offsets, plan.order // plan.top_k, _slot_experts(plan)
        d_rows = grads[0].to(x.dtype).index_select(0, tokens)
        preactivation = projected + _wide(fc1_bias).index_select(0, experts)
        hidden = gelu(preactivation)
        d_ungated = _wide(_served_only(ragged_matmul(d_rows, fc2, offsets), plan))
        d_gates = (d_ungated * hidden).sum(1)
        d_fc2 = ragged_outer(d_rows, (hidden * slot_gates[:, None]).to(x.dtype), offsets)
        d_hidden = torch.ops.aten.gelu_backward(d_ungated * slot_gates[:, None], preactivation)
        membership = (experts[:, None] == torch.arange(fc1.shape[0], device=x.device)).to(d_hidden.dtype)
        d_fc1_bias = (membership.t() @ d_hidden).to(x.dtype)
        d_hidden = d_hidden.to(x.dtype)
        d_x = _combine(_served_only(ragged_matmul(d_hidden, fc1, offsets), plan), plan).to(x.dtype)
        d_fc1 = ragged_outer(d_hidden, x.index_select(0, tokens), offsets)
        return d_x, d_gates, d_fc1, d_fc1_bias, d_fc2, None


def moae(x: Tensor, router: Router, experts: Experts, request: MoAERequest) -> tuple[Tensor, MoAERecord]:
    """Output (T, D) and record of tokens ``x`` (T, D)."""
    routing = route(x, router, request)
    gates = dense_gates(routing)
    # The gate of each slot, read from the same (T, E) table that weighs the output biases: its gradient holds both.
    slot_gates = gates.gather(1, routing.plan.topk_expert_ids).flatten().index_select(0, routing.plan.order)
    fc1, fc2 = experts.fc1_weight.contiguous(), experts.fc2_weight.contiguous()
    output: Tensor = _GroupedExperts.apply(x, slot_gates, fc1, experts.fc1_bias, fc2, routing.plan)
    output = torch.addmm(output, gates, _wide(experts.fc2_bias))
    if request.residual is not None:
        output = output + request.residual
    return output.to(x.dtype), record(routing, request)
