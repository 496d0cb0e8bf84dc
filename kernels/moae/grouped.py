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
    total = rows.index_select(0, plan.slots[:, 0])
    if plan.top_k > 1 and rows.dtype != torch.float64:
        total = total.float()
    for choice in range(1, plan.top_k):
        total += rows.index_select(0, plan.slots[:, choice])
    return total


def _slot_experts(plan: RoutingPlan) -> Tensor:
    """Expert of each slot, (R,); a dropped assignment's slot counts for the last expert."""
    slot = torch.arange(plan.order.shape[0], device=plan.order.device, dtype=torch.int32)
    return torch.searchsorted(plan.expert_offsets[1:-1], slot, right=True)


class _GroupedExperts(torch.autograd.Function):
    """sum_k gate_k * fc2(gelu(fc1(x))), without the output bias; ``slot_gates`` (R,) are the gates in slot order."""

    @staticmethod
    def forward(ctx: Any, *operands: Any) -> Tensor:
        x, slot_gates, fc1, fc1_bias, fc2, plan = operands
        offsets, tokens = plan.expert_offsets, plan.order // plan.top_k
        preactivation = ragged_matmul(x.index_select(0, tokens), fc1.transpose(1, 2), offsets)
        preactivation = _served_only(preactivation + fc1_bias.index_select(0, _slot_experts(plan)), plan)
        gated = gelu(preactivation) * slot_gates[:, None]
        output = _combine(_served_only(ragged_matmul(gated, fc2.transpose(1, 2), offsets), plan), plan)
        ctx.save_for_backward(x, slot_gates, fc1, fc2, preactivation)
        ctx.plan = plan
        return output.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, slot_gates, fc1, fc2, preactivation = ctx.saved_tensors
        plan: RoutingPlan = ctx.plan
        offsets, tokens = plan.expert_offsets, plan.order // plan.top_k
        d_rows = grads[0].index_select(0, tokens)
        hidden = gelu(preactivation)
        d_ungated = _served_only(ragged_matmul(d_rows, fc2, offsets), plan)
        d_gates = (d_ungated * hidden).sum(1)
        d_fc2 = ragged_outer(d_rows, hidden * slot_gates[:, None], offsets)
        d_hidden = torch.ops.aten.gelu_backward(d_ungated * slot_gates[:, None], preactivation)
        d_x = _combine(_served_only(ragged_matmul(d_hidden, fc1, offsets), plan), plan).to(x.dtype)
        d_fc1 = ragged_outer(d_hidden, x.index_select(0, tokens), offsets)
        membership = torch.nn.functional.one_hot(_slot_experts(plan), fc1.shape[0]).to(d_hidden.dtype)
        return d_x, d_gates, d_fc1, membership.t() @ d_hidden, d_fc2, None


def moae(x: Tensor, router: Router, experts: Experts, request: MoAERequest) -> tuple[Tensor, MoAERecord]:
    """Output (T, D) and record of tokens ``x`` (T, D)."""
    routing = route(x, router, request)
    gates = dense_gates(routing).to(x.dtype)
    # The gate of each slot, read from the same (T, E) table that weighs the output biases, so that its gradient holds
    # both.
    slot_gates = gates.gather(1, routing.plan.topk_expert_ids).flatten().index_select(0, routing.plan.order)
    output: Tensor = _GroupedExperts.apply(
        x, slot_gates, experts.fc1_weight, experts.fc1_bias, experts.fc2_weight, routing.plan
    )
    output = torch.addmm(output, gates, experts.fc2_bias)
    return (output if request.residual is None else output + request.residual), record(routing, request)
