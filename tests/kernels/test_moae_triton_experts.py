"""Expert kernels of the Triton backend: each against the slot-by-slot formula in float64, under all kinds of plans."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import gelu, linear

from kernels.launch import launch, recording
from kernels.moae import expert_tiles, triton_expert_parts
from kernels.moae.plan import RoutingPlan, build_plan
from kernels.moae.records import Experts
from kernels.moae.triton_combine import combine
from kernels.moae.triton_experts import experts_forward
from kernels.moae.triton_experts_backward import experts_backward
from kernels.moae.triton_weight_gradients import weight_gradients
from kernels.numerics import check

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = torch.bfloat16 if torch.cuda.is_available() else torch.float16


@triton.jit
def _gelu_kernel(values, alone, results, slopes, count, BLOCK: tl.constexpr, EXACT: tl.constexpr):
    place = tl.arange(0, BLOCK)
    value = tl.load(values + place, mask=place < count, other=0.0)
    result, slope = triton_expert_parts.gelu_and_slope(value, EXACT)
    tl.store(alone + place, triton_expert_parts.gelu(value, EXACT), mask=place < count)
    tl.store(results + place, result, mask=place < count)
    tl.store(slopes + place, slope, mask=place < count)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes, and how tokens are routed: at random, all to the first two experts, or with room for ``capacity``."""

    tokens: int = 21
    width: int = 40
    hidden: int = 24
    num_experts: int = 4
    top_k: int = 2
    skewed: bool = False
    capacity: int | None = None
    dtype: torch.dtype = torch.float32


CASES = {
    "random": Case(),
    "all to two experts": Case(skewed=True, tokens=37),
    "capacity": Case(capacity=7),
    "three choices, prime sizes": Case(tokens=17, width=37, hidden=29, num_experts=5, top_k=3, capacity=5),
    "hidden of the models": Case(width=72, hidden=192),
    "hidden through memory": Case(width=72, hidden=200, capacity=9),
    "one token": Case(tokens=1, num_experts=2),
    "no room": Case(capacity=0),
}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    x: Tensor
    gates: Tensor
    grad_out: Tensor
    plan: RoutingPlan
    experts: Experts


def make(case: Case) -> Inputs:
    t, d, e, h = case.tokens, case.width, case.num_experts, case.hidden
    choices = case.top_k if case.skewed else e
    ids = torch.stack([torch.randperm(choices)[: case.top_k] for _ in range(t)]) if t else torch.empty(0, case.top_k)
    plan = build_plan(ids.to(torch.int64), e, case.capacity)
    fields = {
        name: getattr(plan, name).to(DEVICE) for name in ("topk_expert_ids", "expert_offsets", "order", "slots", "kept")
    }

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*size) * scale).to(DEVICE, case.dtype)

    return Inputs(
        x=normal(t, d),
        gates=torch.rand(t, case.top_k).to(DEVICE),
        grad_out=normal(t, d),
        plan=replace(plan, **fields),
        experts=Experts(
            fc1_weight=normal(e, h, d, scale=d**-0.5),
            fc1_bias=normal(e, h),
            fc2_weight=normal(e, d, h, scale=h**-0.5),
            fc2_bias=normal(e, d),
        ),
    )


def served(given: Inputs) -> int:
    return int(given.plan.expert_offsets[-1])


def expected(given: Inputs, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every result of the kernels by the formula and autograd in ``dtype``, on the CPU; rows of served slots only."""
    order = given.plan.order[: served(given)].cpu()
    x_rows, gates, z_grads = given.x.cpu().to(dtype)[order // given.plan.top_k], given.gates.cpu().to(dtype), []
    weights = [value.cpu().to(dtype).requires_grad_() for value in vars_of(given.experts)]
    x_rows.requires_grad_()
    gates.requires_grad_()
    rows, before = [], []
    for expert, (begin, end) in enumerate(pairwise(given.plan.expert_offsets.tolist())):
        fc1, fc1_bias, fc2, fc2_bias = (value[expert] for value in weights)
        z = linear(x_rows[begin:end], fc1, fc1_bias)
        z_grads.append(z)
        before.append(z)
        gate = gates.flatten()[order[begin:end], None]
        rows.append(gate * linear(gelu(z), fc2, fc2_bias))
    everything = torch.cat(rows)
    grads = torch.autograd.grad(
        everything,
        [x_rows, gates, *weights, *z_grads],
        given.grad_out.cpu().to(dtype)[order // given.plan.top_k],
        allow_unused=True,
        materialize_grads=True,
    )
    names = ("dx_rows", "d_gates", "d_fc1", "d_fc1_bias", "d_fc2", "d_fc2_bias")
    return {
        "rows": everything.detach(),
        "preactivation": torch.cat(before).detach(),
        "d_preactivation": torch.cat(grads[6:]),
        **dict(zip(names, grads[:6], strict=True)),
    }


def vars_of(experts: Experts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return experts.fc1_weight, experts.fc1_bias, experts.fc2_weight, experts.fc2_bias


def run(given: Inputs) -> dict[str, Tensor]:
    """Every result of the kernels; rows of served slots only."""
    end = served(given)
    rows, preactivation = experts_forward(given.x, given.gates, given.plan, given.experts)
    dx_rows, d_gates, d_preactivation = experts_backward(
        given.grad_out, preactivation, given.gates, given.plan, given.experts
    )
    weights = weight_gradients(
        given.grad_out, given.x, preactivation, d_preactivation, given.gates, given.plan, experts=given.experts
    )
    return {
        "rows": rows[:end],
        "preactivation": preactivation[:end],
        "dx_rows": dx_rows[:end],
        "d_gates": d_gates,
        "d_preactivation": d_preactivation[:end],
        **dict(zip(("d_fc1", "d_fc1_bias", "d_fc2", "d_fc2_bias"), weights, strict=True)),
    }


def check_all(given: Inputs) -> None:
    dtype = given.x.dtype
    found, native, reference = run(given), expected(given, dtype), expected(given, torch.float64)
    for name, value in found.items():
        check(value, native[name], reference[name], dtype, name=name)


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("name", CASES)
def test_float32(name: str) -> None:
    check_all(make(CASES[name]))


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("name", ["capacity", "hidden of the models", "hidden through memory"])
def test_half_precision(name: str, architecture: int) -> None:
    with recording(architecture=architecture):
        check_all(make(replace(CASES[name], dtype=HALF)))


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("slots", ["some", "many"])
@pytest.mark.parametrize("name", ["capacity", "hidden through memory"])
def test_larger_tiles(name: str, slots: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_tiles, "FEW_SLOTS", 0)
    monkeypatch.setattr(expert_tiles, "SOME_SLOTS", 0 if slots == "many" else 1 << 20)
    check_all(make(replace(CASES[name], dtype=HALF)))


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_combine_sums_kept_rows_only(dtype: torch.dtype, with_residual: bool) -> None:
    given = make(Case(tokens=19, width=37, top_k=3, capacity=5, dtype=dtype))
    rows = torch.empty(given.plan.order.shape[0], 37, dtype=dtype, device=DEVICE)
    rows[: served(given)] = torch.randn(served(given), 37)
    residual = torch.randn(19, 37).to(DEVICE, dtype) if with_residual else None

    def formula(wide: torch.dtype) -> Tensor:
        total = torch.zeros(19, 37, dtype=wide)
        for choice in range(3):
            kept, slot = given.plan.kept[:, choice].cpu(), given.plan.slots[:, choice].cpu()
            total[kept] += rows.cpu().to(wide)[slot[kept]]
        return total if residual is None else total + residual.cpu().to(wide)

    check(combine(rows, given.plan, residual), formula(dtype), formula(torch.float64), dtype, name="output")


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_no_tokens(dtype: torch.dtype) -> None:
    given = make(Case(tokens=0, dtype=dtype))
    found = run(given)
    assert found["rows"].shape == (0, 40)
    assert combine(found["rows"], given.plan, None).shape == (0, 40)
    for name in ("d_fc1", "d_fc1_bias", "d_fc2", "d_fc2_bias"):
        assert not found[name].any()


@pytest.mark.usefixtures("poisoned_empty")
def test_a_bad_token_harms_no_other() -> None:
    given = make(Case(dtype=HALF, capacity=8))
    good = run(given)
    given.x[0] = float("nan")
    given.grad_out[0] = float("nan")
    bad = run(given)
    others = given.plan.order[: served(given)] >= given.plan.top_k
    for name in ("rows", "preactivation", "dx_rows", "d_preactivation"):
        assert torch.equal(bad[name][others], good[name][others]), name
    assert torch.equal(bad["d_gates"][1:], good["d_gates"][1:])


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_same_bits_every_time(dtype: torch.dtype) -> None:
    given = make(Case(dtype=dtype, capacity=9))
    first, second = run(given), run(given)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_keeps_the_preactivation_on_request_only() -> None:
    given = make(Case(hidden=200))
    rows, preactivation = experts_forward(given.x, given.gates, given.plan, given.experts, keep_preactivation=False)
    assert preactivation.shape == (0, 200)
    assert torch.equal(rows, experts_forward(given.x, given.gates, given.plan, given.experts)[0])


def test_strided_inputs() -> None:
    given = make(Case())
    strided = replace(
        given,
        x=given.x.t().contiguous().t(),
        grad_out=given.grad_out[:1].expand_as(given.grad_out),
        experts=Experts(
            fc1_weight=given.experts.fc1_weight.transpose(1, 2).contiguous().transpose(1, 2),
            fc1_bias=given.experts.fc1_bias[:1].expand(4, -1),
            fc2_weight=given.experts.fc2_weight.transpose(1, 2).contiguous().transpose(1, 2),
            fc2_bias=given.experts.fc2_bias[:1].expand(4, -1),
        ),
    )
    check_all(strided)


@pytest.mark.parametrize("tokens", [1, 31, 1600, 4600, 12_800])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_programs_and_launches(tokens: int, dtype: torch.dtype, architecture: int) -> None:
    """One launch each, and no more programs than tiles could be partly filled."""

    def meta(*size: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(*size, dtype=dtype, device="meta")

    ids = meta(tokens, 2, dtype=torch.int64)
    plan = RoutingPlan(
        topk_expert_ids=ids,
        expert_offsets=meta(9, dtype=torch.int32),
        order=meta(2 * tokens, dtype=torch.int64),
        slots=ids,
        kept=meta(tokens, 2, dtype=torch.bool),
        capacity=None,
    )
    experts = Experts(
        fc1_weight=meta(8, 192, 768), fc1_bias=meta(8, 192), fc2_weight=meta(8, 768, 192), fc2_bias=meta(8, 768)
    )
    x, gates = meta(tokens, 768), meta(tokens, 2, dtype=torch.float32)
    with recording(dry=True, architecture=architecture) as launches:
        rows, preactivation = experts_forward(x, gates, plan, experts)
        combine(rows, plan, x)
        _, _, d_preactivation = experts_backward(x, preactivation, gates, plan, experts)
        weight_gradients(x, x, preactivation, d_preactivation, gates, plan, experts=experts)
    forward, combined, backward, weights = launches
    for started in (forward, backward):
        assert started.grid[0] <= -(-2 * tokens // started.constants["BLOCK_ROWS"]) + 7
    assert combined.grid[0] * combined.constants["BLOCK_TOKENS"] < tokens + combined.constants["BLOCK_TOKENS"]
    assert weights.grid[1] == 8


@pytest.mark.parametrize("exact", [True, False])
def test_gelu_and_its_derivative(exact: bool) -> None:
    """All finite half-precision numbers; the short form stays far below a unit of half precision."""
    values = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    values = values[values.isfinite()].to(DEVICE)
    found = torch.empty(3, values.numel(), device=DEVICE)
    launch(_gelu_kernel, (1,), values, *found, values.numel(), BLOCK=1 << 16, EXACT=exact)
    wide = values.double().requires_grad_()
    gelu(wide).sum().backward()
    assert wide.grad is not None
    expected_values = (gelu(wide).detach(), gelu(wide).detach(), wide.grad)
    for name, value, reference in zip(("alone", "value", "derivative"), found, expected_values, strict=True):
        assert value.isfinite().all(), name
        error = (value.double() - reference).abs() / wide.detach().abs().clamp(min=1.0)
        assert float(error.max()) < (4e-7 if exact else 1e-6), name
