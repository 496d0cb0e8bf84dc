"""The routing plan: invariants of the index arrays first, then the released token-order rule as a plain loop."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.backends import Facts
from kernels.moae.plan import BACKENDS, RoutingPlan, build_plan, expert_capacity
from kernels.native import status
from kernels.numerics import check_equal

FACTS: Facts = {"device": "cpu"}


def usable(name: str) -> str:
    """The backend's name, or a skip with its reason."""
    reason = BACKENDS[name].refuse(FACTS)
    if reason is not None:
        pytest.skip(reason)
    return name


def random_ids(num_tokens: int, top_k: int, num_experts: int, *, skew: float = 0.0) -> Tensor:
    """Distinct experts of each token, (T, k); with skew the low experts come first."""
    scores = torch.rand(num_tokens, num_experts) - skew * torch.arange(num_experts)
    return scores.argsort(1, descending=True)[:, :top_k].contiguous()


def loop_plan(ids: Tensor, num_experts: int, capacity: int | None) -> tuple[list[int], list[int], set[int]]:
    """Order, offsets and kept assignments by the released rule: tokens in turn, each expert until it is full."""
    served: list[list[int]] = [[] for _ in range(num_experts)]
    dropped: list[list[int]] = [[] for _ in range(num_experts)]
    for assignment, expert in enumerate(ids.flatten().tolist()):
        full = capacity is not None and len(served[expert]) >= capacity
        (dropped if full else served)[expert].append(assignment)
    offsets = [0]
    for assignments in served:
        offsets.append(offsets[-1] + len(assignments))
    return [*chain(*served, *dropped)], offsets, set(chain(*served))


def check_invariants(plan: RoutingPlan, num_experts: int, capacity: int | None) -> None:
    total = plan.order.shape[0]
    check_equal(plan.order.sort().values, torch.arange(total), name="order is a permutation")
    check_equal(plan.slots.flatten()[plan.order], torch.arange(total), name="slots invert order")
    assert plan.expert_offsets[0] == 0 and plan.num_experts == num_experts
    served = torch.diff(plan.expert_offsets)
    assert int(plan.expert_offsets[-1]) == int(plan.kept.sum())
    counts = torch.bincount(plan.topk_expert_ids[plan.kept], minlength=num_experts)
    check_equal(served.long(), counts, name="offset differences are counts")
    if capacity is None:
        assert bool(plan.kept.all())
    else:
        chosen = torch.bincount(plan.topk_expert_ids.flatten(), minlength=num_experts)
        check_equal(served.long(), chosen.clamp(max=capacity), name="served up to the capacity")


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(
    num_tokens=st.integers(0, 70),
    num_experts=st.integers(1, 9),
    chosen=st.integers(1, 9),
    factor=st.none() | st.floats(0, 2),
    skew=st.sampled_from([0.0, 0.2, 5.0]),
    seed=st.integers(0, 2**31),
)
def test_plan(
    name: str, *, num_tokens: int, num_experts: int, chosen: int, factor: float | None, skew: float, seed: int
) -> None:
    usable(name)
    torch.manual_seed(seed)
    top_k = min(chosen, num_experts)
    ids = random_ids(num_tokens, top_k, num_experts, skew=skew)
    capacity = expert_capacity(num_tokens, top_k, num_experts, factor)
    plan = build_plan(ids, num_experts, capacity, backend=name)
    check_invariants(plan, num_experts, capacity)
    order, offsets, kept = loop_plan(ids, num_experts, capacity)
    assert plan.order.tolist() == order
    assert plan.expert_offsets.tolist() == offsets
    assert {i for i, keep in enumerate(plan.kept.flatten().tolist()) if keep} == kept


@pytest.mark.parametrize("name", BACKENDS)
def test_worked_example(name: str) -> None:
    ids = torch.tensor([[2, 0], [2, 1], [0, 2]])
    plan = build_plan(ids, 3, None, backend=usable(name))
    assert plan.order.tolist() == [1, 4, 3, 0, 2, 5]
    assert plan.slots.tolist() == [[3, 0], [4, 2], [1, 5]]
    assert plan.expert_offsets.tolist() == [0, 2, 3, 6]
    limited = build_plan(ids, 3, 1, backend=name)
    assert limited.order.tolist() == [1, 3, 0, 4, 2, 5]
    assert limited.kept.tolist() == [[True, True], [False, True], [False, False]]
    assert limited.expert_offsets.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", BACKENDS)
def test_skewed(name: str) -> None:
    everything_to_one = torch.full((50, 1), 3)
    plan = build_plan(everything_to_one, 5, 7, backend=usable(name))
    check_invariants(plan, 5, 7)
    assert plan.kept.flatten().tolist() == [True] * 7 + [False] * 43
    nothing = build_plan(everything_to_one, 5, 0, backend=name)
    check_invariants(nothing, 5, 0)
    assert not nothing.kept.any()


def test_capacity_is_the_released_floor() -> None:
    assert expert_capacity(100, 2, 8, None) is None
    assert expert_capacity(100, 2, 8, 1.0) == 25
    assert expert_capacity(101, 2, 8, 1.0) == 25
    assert expert_capacity(101, 2, 8, 1.25) == 31
    assert expert_capacity(3, 1, 8, 1.0) == 0
    with pytest.raises(ValueError, match="capacity_factor: expected"):
        expert_capacity(3, 1, 8, -1.0)


def test_native_equals_portable_in_every_integer() -> None:
    usable("native")
    for capacity in (None, 0, 40, 700):
        ids = random_ids(1600, 2, 8, skew=0.1)
        ours, theirs = (build_plan(ids, 8, capacity, backend=name) for name in ("native", "portable"))
        for field in ("expert_offsets", "order", "slots", "kept"):
            check_equal(getattr(ours, field), getattr(theirs, field), name=field)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"topk_expert_ids: expected int64 \(T, k\), got torch.int32"):
        build_plan(torch.zeros(3, 2, dtype=torch.int32), 4, None)
    plan = build_plan(random_ids(4, 2, 3), 3, None)
    with pytest.raises(ValueError, match=r"RoutingPlan.slots: expected torch.int64 \(4, 2\)"):
        RoutingPlan(
            topk_expert_ids=plan.topk_expert_ids,
            expert_offsets=plan.expert_offsets,
            order=plan.order,
            slots=plan.slots[:3],
            kept=plan.kept,
            capacity=None,
        )
    if status()[0]:
        with pytest.raises(ValueError, match="expected 0 to 3, got 9"):
            build_plan(torch.tensor([[0, 9]]), 4, None, backend="native")
