"""Scores, choice and gates of the experts, and the balance statistics, all in float32 or wider.

Half-precision scores would let every backend choose other experts, since each rounds its matmul differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, softplus

from kernels.moae.plan import RoutingPlan, build_plan
from kernels.moae.records import MoAERecord, MoAERequest, Router


@dataclass(frozen=True, kw_only=True, slots=True)
class Routing:
    """Differentiable ``logits`` (T, E) and ``gates`` (T, k), and the plan of the chosen experts."""

    logits: Tensor
    gates: Tensor
    plan: RoutingPlan


def router_logits(x: Tensor, router: Router, request: MoAERequest) -> Tensor:
    """Scores (T, E) of the experts, with the noise of the request added."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x = x.to(dtype)
    logits = linear(x, router.weight.to(dtype), router.bias.to(dtype))
    if request.noise is None or router.noise_weight is None or router.noise_bias is None:
        return logits
    spread = softplus(linear(x, router.noise_weight.to(dtype), router.noise_bias.to(dtype)))
    if isinstance(request.noise, Tensor):
        return logits + request.noise.to(dtype) * spread
    return logits + request.noise.normal(logits.shape[1], dtype) * spread


def choose(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Ids (T, k) of the highest scores, equal ones by the lower expert, and gates (T, k): softmax over the chosen."""
    # torch.topk states no rule for ties.
    ids = torch.sort(logits.detach(), dim=1, descending=True, stable=True).indices[:, :top_k].contiguous()
    return ids, torch.softmax(logits.gather(1, ids), dim=1)


def route(x: Tensor, router: Router, request: MoAERequest) -> Routing:
    """Route the tokens ``x`` (T, D)."""
    logits = router_logits(x, router, request)
    ids, gates = choose(logits, request.top_k)
    return Routing(logits=logits, gates=gates, plan=build_plan(ids, logits.shape[1], request.capacity))


def dense_gates(routing: Routing) -> Tensor:
    """Gates of all experts (T, E), zero where an expert does not serve the token."""
    served = routing.gates
    if routing.plan.capacity is not None:
        served = torch.where(routing.plan.kept, served, 0.0)
    return torch.zeros_like(routing.logits).scatter(1, routing.plan.topk_expert_ids, served)


def record(routing: Routing, request: MoAERequest) -> MoAERecord:
    """The routing with its balance statistics per group of tokens."""
    ids, probs = routing.plan.topk_expert_ids, torch.softmax(routing.logits, dim=1)
    experts = torch.arange(probs.shape[1], device=probs.device)
    chosen = (ids[:, :, None] == experts).sum(1)
    spans = list(zip(request.groups[:-1], request.groups[1:], strict=True))
    return MoAERecord(
        plan=routing.plan,
        router_logits=routing.logits,
        gates=routing.gates,
        counts=torch.stack([chosen[start:end].sum(0) for start, end in spans]),
        prob_sums=torch.stack([probs[start:end].sum(0) for start, end in spans]),
    )
