"""Cases of the routing plan: which slot of which expert serves each choice, with and without a capacity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.bench.backend_peers import backend_peers
from kernels.bench.records import Case, Peer, Run
from kernels.moae.plan import BACKENDS, RoutingPlan, build_plan, expert_capacity

_EXPERTS, _TOP_K = 8, 2
_TOKENS = (576, 1600, 4600, 12800)
_EVERYWHERE = frozenset({"cpu", "cuda"})
_SEED = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanInputs:
    """Chosen experts (T, k) int64 and the most tokens of an expert."""

    ids: Tensor
    capacity: int | None


def make_inputs(tokens: int, factor: float | None, device: torch.device) -> PlanInputs:
    """Experts chosen at random, all as likely."""
    generator = torch.Generator().manual_seed(_SEED)
    ids = torch.rand(tokens, _EXPERTS, generator=generator).argsort(1)[:, :_TOP_K].contiguous()
    return PlanInputs(ids=ids.to(device), capacity=expert_capacity(tokens, _TOP_K, _EXPERTS, factor))


def _case(tokens: int, factor: float | None) -> Case:
    return Case(
        name=f"t{tokens}" + ("" if factor is None else "_capacity"),
        op="moae_plan",
        inputs=lambda device, dtype: make_inputs(tokens, factor, device),
        floors=lambda dtype: {},
        defaults=_EVERYWHERE,
        dtypes={"cuda": (torch.bfloat16,), "cpu": (torch.float32,)},
    )


CASES = {case.name: case for case in (_case(tokens, factor) for tokens in _TOKENS for factor in (None, 1.0))}


def call_backend(inputs: PlanInputs, backend: str | None) -> RoutingPlan:
    """The plan."""
    return build_plan(inputs.ids, _EXPERTS, inputs.capacity, backend=backend)


def plan_peers(case: Case) -> Iterator[Peer]:
    """The rows of the plan's own table; their integers are compared by the tests."""
    yield from backend_peers("moae_plan", BACKENDS, _plan)


def _plan(inputs: PlanInputs, name: str) -> Run:
    return Run(
        forward=lambda: (call_backend(inputs, name).order,),
        leaves=(),
        upstream=(),
        results=lambda outputs, gradients: {},
    )
