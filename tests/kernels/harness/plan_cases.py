"""Cases of the routing plan: integers only, held to the released rule written as a loop."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from harness.operation import Named, Operands, Operation
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from kernels.moae.plan import BACKENDS, build_plan


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanCase:
    """With ``skew`` the low experts come first; ``capacity`` in tokens."""

    tokens: int = 20
    num_experts: int = 4
    top_k: int = 2
    capacity: int | None = None
    skew: float = 0.0
    seed: int = 0


def _cases(interpreted: bool) -> SearchStrategy[PlanCase]:
    sizes = st.integers(0, 70) | st.sampled_from((127, 128, 129, 255, 256, 257, 521))
    return st.integers(1, 12).flatmap(
        lambda num_experts: st.builds(
            PlanCase,
            tokens=sizes if interpreted else sizes | st.sampled_from((1023, 1024, 1025, 4099)),
            num_experts=st.just(num_experts),
            top_k=st.integers(1, num_experts),
            capacity=st.none() | st.integers(0, 40) | st.sampled_from((0, 1, 300, 100_000)),
            skew=st.sampled_from((0.0, 0.0, 0.2, 5.0)),
            seed=st.integers(0, 2**31),
        )
    )


_EDGES = (
    PlanCase(tokens=0),
    PlanCase(tokens=0, capacity=0),
    PlanCase(tokens=1, top_k=4),
    PlanCase(tokens=257, num_experts=1, top_k=1, capacity=100),
    PlanCase(tokens=130, num_experts=8, skew=5.0, capacity=7),
    PlanCase(tokens=130, num_experts=8, skew=5.0),
)


def _operands(case: PlanCase, dtype: torch.dtype) -> Operands:
    generator = torch.Generator().manual_seed(case.seed)
    scores = torch.rand(case.tokens, case.num_experts, generator=generator)
    scores -= case.skew * torch.arange(case.num_experts)
    ids = scores.argsort(1, descending=True)[:, : case.top_k].contiguous()
    return Operands(leaves={}, upstream={}, fixed={"ids": ids})


def _forward(case: PlanCase, leaves: Named, fixed: Named, backend: str) -> Named:
    plan = build_plan(fixed["ids"], case.num_experts, case.capacity, backend=backend)
    return {"expert_offsets": plan.expert_offsets, "order": plan.order, "slots": plan.slots, "kept": plan.kept}


def _loop(case: PlanCase, leaves: Named, fixed: Named) -> Named:
    """Tokens in turn, each expert until it is full; what is dropped comes last, by expert and token."""
    served: list[list[int]] = [[] for _ in range(case.num_experts)]
    dropped: list[list[int]] = [[] for _ in range(case.num_experts)]
    for assignment, expert in enumerate(fixed["ids"].flatten().tolist()):
        full = case.capacity is not None and len(served[expert]) >= case.capacity
        (dropped if full else served)[expert].append(assignment)
    order = torch.tensor([*chain(*served, *dropped)], dtype=torch.int64)
    offsets = torch.tensor([0, *(len(assignments) for assignments in served)]).cumsum(0)
    slots = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    shape = fixed["ids"].shape
    return {
        "expert_offsets": offsets.to(torch.int32),
        "order": order,
        "slots": slots.view(shape),
        "kept": (slots < offsets[-1]).view(shape),
    }


MOAE_PLAN = Operation(
    name="moae_plan",
    backends=BACKENDS,
    cases=_cases,
    edges=_EDGES,
    smooth=PlanCase(tokens=9),
    busy=PlanCase(tokens=3000, num_experts=8, capacity=700),
    operands=_operands,
    forward=_forward,
    exact=_loop,
    native=_loop,
    definition=None,
    # Without floating point, one run stands for all dtypes.
    dtypes=(torch.float32,),
)
