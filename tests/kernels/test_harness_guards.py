"""Memory, repeatability and derivatives of every backend, and proof that the harness sees planted faults."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from harness.memory import PLACEMENTS, OverrunError, guarded_allocations, place
from harness.operation import (
    Named,
    Operands,
    Operation,
    Run,
    check_case,
    device_of,
    dtypes_of,
    execute,
    is_interpreted,
    refusal,
)
from harness.table import OPERATIONS, pairs
from torch import Tensor

from kernels.numerics import RMS_BOUND

# Half the distance of the nearest points of a difference quotient, in units of each operand's own values.
STEP = 2e-3


def usable(op: Operation, backend: str, *dtypes: torch.dtype) -> torch.dtype:
    """First of ``dtypes`` (all by default) that ``backend`` serves here, or a skip with the reason."""
    reason: str | None = "no dtype"
    for dtype in dtypes or dtypes_of(op, backend):
        reason = refusal(op, backend, dtype)
        if reason is None:
            return dtype
    pytest.skip(reason or "")


@pytest.mark.parametrize("placement", [name for name in PLACEMENTS if name != "plain"])
@pytest.mark.parametrize(("op", "backend"), pairs())
def test_placement(op: Operation, backend: str, placement: str) -> None:
    """Operands amid poison, misaligned, strided, and with rows 2^31 elements apart."""
    dtype = usable(op, backend)
    if placement == "far" and device_of(op, backend, dtype) != "cpu":
        pytest.skip("on a GPU memory that nobody touches is taken all the same")
    check_case(op, op.smooth, backend, dtype, placement=placement)


def assert_same_bits(op: Operation, backend: str, case: Any, dtype: torch.dtype, *, runs: int) -> None:
    operands, device = op.operands(case, dtype), device_of(op, backend, dtype)
    first, *others = (execute(op.on(backend), case, operands, dtype, device=device) for _ in range(runs))
    for other in others:
        for name, value in first.items():
            assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(
    ("op", "backend", "dtype"),
    [
        pytest.param(*pair.values, dtype, id=f"{pair.id}-{dtype}")
        for pair in pairs()
        for dtype in dtypes_of(*pair.values)
    ],
)
def test_fifty_runs_give_the_same_bits(op: Operation, backend: str, dtype: torch.dtype) -> None:
    usable(op, backend, dtype)
    # The interpreter is plain sequential Python.
    assert_same_bits(op, backend, op.smooth, dtype, runs=4 if is_interpreted(backend) else 50)


THREADED = [pair for pair in pairs() if not is_interpreted(pair.values[1])]


@pytest.mark.parametrize("runs", [5, pytest.param(50, marks=pytest.mark.deep)])
@pytest.mark.parametrize(("op", "backend"), THREADED)
def test_runs_of_two_threads_give_the_same_bits(op: Operation, backend: str, runs: int) -> None:
    dtype = usable(op, backend)
    torch.set_num_threads(2)
    try:
        assert_same_bits(op, backend, op.busy, dtype, runs=runs)
    finally:
        torch.set_num_threads(1)


DIFFERENTIABLE = [op for op in OPERATIONS.values() if op.differentiable]


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_gradcheck_of_the_definition(op: Operation) -> None:
    operands = op.operands(op.smooth, torch.float64)
    leaves = {name: leaf.requires_grad_() for name, leaf in operands.leaves.items()}

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        results = op.exact(op.smooth, dict(zip(leaves, values, strict=True)), operands.fixed)
        return tuple(result for result in results.values() if result.requires_grad)

    assert torch.autograd.gradcheck(function, tuple(leaves.values()))


def quotient(run: Any, operands: Operands, direction: Named) -> tuple[float, float]:
    """Fourth-order difference quotient of <results, upstream>, and how far rounding within the policy may move it."""

    def value(step: float) -> tuple[float, float]:
        moved = {name: leaf + step * direction[name] for name, leaf in operands.leaves.items()}
        results = run(replace(operands, leaves=moved))
        pairs_ = [(results[name].cpu().double(), upstream) for name, upstream in operands.upstream.items()]
        slack = sum(RMS_BOUND[torch.float32] * float(w.norm() * r.norm()) for r, w in pairs_)
        return sum(float((w * r).sum()) for r, w in pairs_), slack

    points = {k: value(k * STEP) for k in (-2, -1, 1, 2)}
    slope = (8 * (points[1][0] - points[-1][0]) - (points[2][0] - points[-2][0])) / (12 * STEP)
    return slope, sum((8 if abs(k) == 1 else 1) * slack for k, (_, slack) in points.items()) / (12 * STEP)


@pytest.mark.parametrize("along", ["gradient", "random"])
@pytest.mark.parametrize(("op", "backend"), [pair for pair in pairs() if pair.values[0].differentiable])
def test_directional_differences(op: Operation, backend: str, along: str) -> None:
    """Slope of the float32 forward against its own backward, with no other implementation between them."""
    case, dtype = op.smooth, usable(op, backend, torch.float32)
    operands = op.operands(case, dtype)
    exact = execute(op.exact, case, operands, torch.float64)
    device = device_of(op, backend, dtype)
    ours = execute(op.on(backend), case, operands, dtype, device=device)
    gradient = {name: ours[f"d_{name}"].cpu().double() for name in operands.leaves}
    if along == "gradient":
        size = math.sqrt(
            sum(g.numel() for g in gradient.values()) / sum(float(g.square().sum()) for g in gradient.values())
        )
        direction = {name: exact[f"d_{name}"] * size for name in gradient}
    else:
        direction = {name: torch.randn(g.shape, dtype=torch.float64) for name, g in gradient.items()}
    slope, slack = quotient(
        lambda o: execute(op.on(backend), case, o, dtype, backward=False, device=device), operands, direction
    )
    smooth, _ = quotient(lambda o: execute(op.exact, case, o, torch.float64, backward=False), operands, direction)
    expected = sum(float((gradient[name] * direction[name]).sum()) for name in gradient)
    truncation = abs(smooth - sum(float((exact[f"d_{name}"] * direction[name]).sum()) for name in gradient))
    bound = (
        truncation
        + slack
        + RMS_BOUND[dtype] * sum(float(gradient[name].norm() * direction[name].norm()) for name in gradient)
    )
    assert abs(slope - expected) <= bound, f"slope {slope}, gradient {expected}, bound {bound}"
    if along == "gradient":
        assert bound < 0.05 * abs(expected), "too coarse to mean anything"


def wrong(results: Named, fault: str) -> Named:
    """Results with a planted fault."""
    output = next(iter(results))
    if fault == "one value":
        results[output] = results[output] * (
            1 + 0.02 * (torch.arange(results[output].numel()) == 3).view_as(results[output])
        )
    elif fault == "gradient":
        results[output] = results[output].detach() * 2 - results[output]
    return results


@pytest.mark.parametrize("fault", ["one value", "gradient", "unwritten", "overrun", "read outside"])
def test_planted_faults_are_seen(fault: str) -> None:
    """A harness that lets these pass would prove nothing."""
    honest = OPERATIONS["attention"]

    def forward(case: Any, leaves: Named, fixed: Named, backend: str) -> Named:
        results = honest.forward(case, leaves, fixed, "reference")
        output = results["output"]
        if fault == "unwritten":
            scratch = torch.empty_like(output)
            return {"output": torch.where(torch.arange(output.shape[0])[:, None, None] == 1, scratch, output)}
        if fault == "overrun":
            scratch = torch.empty(output.shape)
            scratch.as_strided((scratch.numel() + 1,), (1,)).fill_(0.0)
        if fault == "read outside":
            qkv = leaves["qkv"].detach()
            beyond = qkv.as_strided((1,), (1,), qkv.storage_offset() - 1)
            return {"output": output + 0 * beyond}
        return wrong(results, fault)

    planted = replace(honest, forward=forward)
    error = OverrunError if fault == "overrun" else AssertionError
    with pytest.raises(error):
        check_case(planted, honest.smooth, "planted", torch.float32, placement="margins")


def test_placements_hold_the_values() -> None:
    values = torch.arange(24.0).view(4, 2, 3)
    for name in PLACEMENTS:
        placed = place(values, name)
        assert torch.equal(placed, values), name
    assert place(values, "misaligned").data_ptr() % 16
    assert not place(values, "margins").is_contiguous() and not place(values, "transposed").is_contiguous()
    assert place(values, "far").stride(0) * 3 > 1 << 31


def test_guarded_allocations_are_poisoned_and_in_order() -> None:
    with guarded_allocations():
        assert torch.empty(3, 4).isnan().all() and torch.empty(3, dtype=torch.int32).min() == 2**31 - 1
        assert torch.zeros(2, 2).sum() == 0
        assert torch.empty_like(torch.ones(3, 4).t()).stride() == (1, 4)
        assert torch.empty(5, dtype=torch.float16).data_ptr() % 16 == 0


def test_runs_name_what_is_needed_to_run_them_again() -> None:
    op = OPERATIONS["attention"]
    planted = replace(op, forward=lambda *call: wrong(op.forward(*call[:3], "reference"), "one value"))
    with pytest.raises(AssertionError) as caught:
        check_case(planted, op.smooth, "planted", torch.float32)
    assert any("run again: check_case(ATTENTION, AttentionCase(layout=" in note for note in caught.value.__notes__)
    assert Run(op=op, case=op.smooth, dtype=torch.float32, backward=True, placement="plain", steps=1).exact().keys()
