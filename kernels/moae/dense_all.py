"""Every expert on every token, with gate zero where it was not chosen: two plain matmuls and static shapes.

E / k times the arithmetic of the chosen experts alone, but no gather, no sort order and no ragged shapes: best for
few tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu

from kernels.moae.records import Experts, MoAERecord, MoAERequest, Router
from kernels.moae.router import dense_gates, record, route


def moae(x: Tensor, router: Router, experts: Experts, request: MoAERequest) -> tuple[Tensor, MoAERecord]:
    """Output (T, D) and record of tokens ``x`` (T, D)."""
    routing = route(x, router, request)
    gates = dense_gates(routing)
    num_experts, hidden_width, width = experts.fc1_weight.shape
    hidden = torch.addmm(experts.fc1_bias.flatten(), x, experts.fc1_weight.reshape(-1, width).t())
    # The output is linear in the gate, so the gate may act on the narrower hidden layer; in its own wider dtype, since
    # its gradient sums what is left of large terms.
    gated = (gelu(hidden).view(-1, num_experts, hidden_width) * gates[:, :, None]).flatten(1).to(x.dtype)
    bias = (gates @ experts.fc2_bias.to(gates.dtype)).to(x.dtype)
    output = torch.addmm(bias, gated, experts.fc2_weight.transpose(1, 2).reshape(-1, width))
    return (output if request.residual is None else output + request.residual), record(routing, request)
