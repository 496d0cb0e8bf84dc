"""The definition: every expert in turn sees all tokens and counts where it was chosen and had room."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

from kernels.moae.records import Experts, MoAERecord, MoAERequest, Router
from kernels.moae.router import record, route


def moae(x: Tensor, router: Router, experts: Experts, request: MoAERequest) -> tuple[Tensor, MoAERecord]:
    """Output (T, D) and record of tokens ``x`` (T, D)."""
    routing = route(x, router, request)
    ids = routing.plan.topk_expert_ids
    output = torch.zeros_like(x) if request.residual is None else request.residual
    for expert in range(experts.num_experts):
        chosen = ids == expert
        if request.capacity is not None:
            earlier = chosen.any(1).cumsum(0) - 1
            chosen = chosen & (earlier < request.capacity)[:, None]
        gate = torch.where(chosen, routing.gates, 0.0).sum(1, keepdim=True).to(x.dtype)
        hidden = gelu(linear(x, experts.fc1_weight[expert], experts.fc1_bias[expert]))
        output = output + gate * linear(hidden, experts.fc2_weight[expert], experts.fc2_bias[expert])
    return output, record(routing, request)
