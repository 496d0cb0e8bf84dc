"""Every MoAE backend against the definition, and the definition against the released rule written as a loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import pytest
import torch
from torch import Tensor

from kernels.moae import BACKENDS, Experts, MoAERecord, Router, moae
from kernels.numerics import check, check_equal
from kernels.philox import NoiseKey

# Those that serve tensors on a CPU here; a kernel needs Triton's interpreter for that.
USABLE = [name for name, row in BACKENDS.items() if row.refuse({"device": "cpu", "dtype": torch.float32}) is None]
RIVALS = [name for name in USABLE if name != "reference"]


def skip_if_refused(backend: str, dtype: torch.dtype) -> None:
    """Skip with the reason a backend gives for not serving CPU tensors of ``dtype``."""
    reason = BACKENDS[backend].refuse({"device": "cpu", "dtype": dtype})
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")


def widest(backend: str) -> torch.dtype:
    """Float64, or float32 where the backend has no wider type."""
    refused = BACKENDS[backend].refuse({"device": "cpu", "dtype": torch.float64})
    return torch.float32 if refused else torch.float64


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One call: T tokens, width D, E experts of hidden width Hd, k chosen."""

    tokens: int = 50
    width: int = 32
    num_experts: int = 4
    hidden: int = 8
    top_k: int = 2
    factor: float | None = None


SHAPES = {
    "usual": Shape(),
    "demo": Shape(tokens=300, width=128, hidden=32),
    "odd widths": Shape(tokens=67, width=21, num_experts=5, hidden=7, top_k=3),
    "capacity": Shape(tokens=61, factor=1.0),
    "tight capacity": Shape(tokens=61, num_experts=8, factor=0.3),
    "no capacity at all": Shape(tokens=10, factor=0.0),
    "one expert": Shape(num_experts=1, top_k=1),
    "every expert": Shape(num_experts=3, top_k=3),
    "top-1": Shape(top_k=1),
    "one token": Shape(tokens=1),
    "no token": Shape(tokens=0),
    "no token, capacity": Shape(tokens=0, factor=1.0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Leaves of one call and upstream gradients of its differentiable results."""

    x: Tensor
    residual: Tensor
    router_weight: Tensor
    router_bias: Tensor
    noise_weight: Tensor
    noise_bias: Tensor
    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor

    def leaves(self, dtype: torch.dtype) -> Inputs:
        """Fresh leaves of the same values in ``dtype``."""
        return Inputs(**{f.name: getattr(self, f.name).detach().to(dtype).requires_grad_() for f in fields(self)})

    def router(self) -> Router:
        return Router(
            weight=self.router_weight,
            bias=self.router_bias,
            noise_weight=self.noise_weight,
            noise_bias=self.noise_bias,
        )

    def experts(self) -> Experts:
        return Experts(
            fc1_weight=self.fc1_weight, fc1_bias=self.fc1_bias, fc2_weight=self.fc2_weight, fc2_bias=self.fc2_bias
        )


def inputs(shape: Shape, dtype: torch.dtype, *, skew: float = 0.0) -> Inputs:
    """Random operands rounded to ``dtype``; with skew the low experts get nearly all tokens."""
    t, d, e, h = shape.tokens, shape.width, shape.num_experts, shape.hidden

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*size, dtype=torch.float64) * scale).to(dtype)

    return Inputs(
        x=normal(t, d),
        residual=normal(t, d),
        router_weight=normal(e, d, scale=d**-0.5),
        router_bias=(-skew * torch.arange(e, dtype=torch.float64)).to(dtype),
        noise_weight=normal(e, d, scale=0.1 * d**-0.5),
        noise_bias=normal(e, scale=0.1),
        fc1_weight=normal(e, h, d, scale=d**-0.5),
        fc1_bias=normal(e, h, scale=0.1),
        fc2_weight=normal(e, d, h, scale=h**-0.5),
        fc2_bias=normal(e, d, scale=0.1),
    )


def call(
    operands: Inputs, shape: Shape, backend: str, *, noise: Tensor | NoiseKey | None = None
) -> tuple[Tensor, MoAERecord]:
    return moae(
        operands.x,
        operands.router(),
        operands.experts(),
        top_k=shape.top_k,
        capacity_factor=shape.factor,
        noise=noise,
        groups=(0, shape.tokens // 3, shape.tokens),
        residual=operands.residual,
        backend=backend,
    )


def upstream(shape: Shape, num_groups: int = 2) -> list[Tensor]:
    """Gradients of output, prob_sums and router_logits."""
    e = shape.num_experts
    return [torch.randn(shape.tokens, shape.width), torch.randn(num_groups, e), torch.randn(shape.tokens, e)]


def results(
    operands: Inputs, shape: Shape, backend: str, dtype: torch.dtype, grads: list[Tensor], noise: Tensor | None
) -> dict[str, Tensor]:
    """Outputs and all gradients by name, computed in ``dtype``."""
    leaves = operands.leaves(dtype)
    output, record = call(leaves, shape, backend, noise=noise)
    roots = [output, record.prob_sums, record.router_logits]
    torch.autograd.backward(roots, [g.to(r.dtype) for g, r in zip(grads, roots, strict=True)])
    found = {"output": output.detach(), "gates": record.gates.detach(), "prob_sums": record.prob_sums.detach()}
    for f in fields(leaves):
        grad = getattr(leaves, f.name).grad
        if grad is not None:
            found[f"d_{f.name}"] = grad
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("backend", RIVALS)
def test_backend_equals_definition(backend: str, name: str, dtype: torch.dtype) -> None:
    skip_if_refused(backend, dtype)
    shape = SHAPES[name]
    operands, grads = inputs(shape, dtype), [g.to(dtype) for g in upstream(shape)]
    noise = torch.randn(shape.tokens, shape.num_experts)
    exact = results(operands, shape, "reference", torch.float64, grads, noise)
    native = results(operands, shape, "reference", dtype, grads, noise)
    ours = results(operands, shape, backend, dtype, grads, noise)
    assert ours.keys() == exact.keys()
    for key, value in ours.items():
        if dtype == torch.float64:
            torch.testing.assert_close(value, exact[key], rtol=1e-12, atol=1e-12, msg=key)
        else:
            check(value, native[key], exact[key], dtype, name=f"{backend} {key}")


@pytest.mark.parametrize("skew", [3.0, 30.0])
@pytest.mark.parametrize("backend", RIVALS)
def test_skewed_routing(backend: str, skew: float) -> None:
    for shape in (Shape(tokens=90, num_experts=6, top_k=1), Shape(tokens=90, num_experts=6, factor=0.5)):
        operands, grads = inputs(shape, torch.float32, skew=skew), upstream(shape)
        exact = results(operands, shape, "reference", torch.float64, grads, None)
        native = results(operands, shape, "reference", torch.float32, grads, None)
        ours = results(operands, shape, backend, torch.float32, grads, None)
        for key, value in ours.items():
            check(value, native[key], exact[key], torch.float32, name=key)
        assert not ours["d_fc1_weight"][-1].any(), "an expert without tokens has gradient zero, not none and not NaN"


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("backend", USABLE)
def test_dropped_tokens_touch_nothing(backend: str) -> None:
    shape = Shape(tokens=40, factor=0.4)
    operands = inputs(shape, torch.float32)
    leaves = operands.leaves(torch.float32)
    output, record = call(leaves, shape, backend)
    alone = ~record.plan.kept.any(1)
    assert alone.any() and not alone.all()
    torch.testing.assert_close(output[alone], leaves.residual[alone], rtol=0, atol=0)
    output[alone].sum().backward()
    assert leaves.fc1_weight.grad is not None and not leaves.fc1_weight.grad.any()
    assert leaves.x.grad is not None and not leaves.x.grad.any()


def released_rule(operands: Inputs, shape: Shape, noise: Tensor | None) -> tuple[Tensor, list[list[int]]]:
    """Token by token: noisy scores, the k best, softmax over them, each expert while it has room; plus the counts."""
    room = [math.inf] * shape.num_experts
    if shape.factor is not None:
        room = [int(shape.tokens * shape.top_k / shape.num_experts * shape.factor)] * shape.num_experts
    output = operands.residual.clone()
    chosen = []
    for t, x in enumerate(operands.x):
        scores = operands.router_weight @ x + operands.router_bias
        if noise is not None:
            spread = torch.log1p(torch.exp(operands.noise_weight @ x + operands.noise_bias))
            scores = scores + noise[t] * spread
        best = sorted(range(shape.num_experts), key=lambda e, s=scores: (-s[e].item(), e))[: shape.top_k]
        gates = torch.exp(scores[best]) / torch.exp(scores[best]).sum()
        chosen.append(best)
        for gate, e in zip(gates, best, strict=True):
            if room[e] <= 0:
                continue
            room[e] -= 1
            hidden = operands.fc1_weight[e] @ x + operands.fc1_bias[e]
            hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
            output[t] += gate * (operands.fc2_weight[e] @ hidden + operands.fc2_bias[e])
    return output, chosen


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.tokens])
@pytest.mark.parametrize("noisy", [False, True])
def test_definition_is_the_released_rule(name: str, noisy: bool) -> None:
    shape = SHAPES[name]
    operands = inputs(shape, torch.float64)
    noise = torch.randn(shape.tokens, shape.num_experts, dtype=torch.float64) if noisy else None
    output, record = call(operands, shape, "reference", noise=noise)
    expected, chosen = released_rule(operands, shape, noise)
    assert record.plan.topk_expert_ids.tolist() == chosen
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    third = shape.tokens // 3
    for group, span in zip(record.counts, (slice(0, third), slice(third, None)), strict=True):
        flat = [e for best in chosen[span] for e in best]
        assert group.tolist() == [flat.count(e) for e in range(shape.num_experts)]


@pytest.mark.parametrize("backend", USABLE)
def test_ties_go_to_the_lower_expert(backend: str) -> None:
    shape = Shape(num_experts=8, top_k=3)
    operands = inputs(shape, torch.float32)
    flat = Router(weight=torch.zeros(8, 32), bias=torch.tensor([0.0, 1, 0, 1, 1, 0, 1, 0]))
    _, record = moae(operands.x, flat, operands.experts(), top_k=3, backend=backend)
    assert record.plan.topk_expert_ids.tolist() == [[1, 3, 4]] * shape.tokens


@pytest.mark.parametrize("backend", USABLE)
def test_balance_statistics(backend: str) -> None:
    shape, dtype = Shape(tokens=30), widest(backend)
    leaves = inputs(shape, dtype).leaves(dtype)
    _, record = call(leaves, shape, backend)
    assert record.counts.dtype == torch.int64 and not record.counts.requires_grad
    assert record.counts.sum(1).tolist() == [20, 40]
    torch.testing.assert_close(record.prob_sums.sum(1), torch.tensor([10.0, 20.0], dtype=dtype))
    whole, merged = moae(leaves.x, leaves.router(), leaves.experts(), top_k=2, backend=backend)
    torch.testing.assert_close(merged.prob_sums, record.prob_sums.sum(0, keepdim=True))
    check_equal(merged.counts, record.counts.sum(0, keepdim=True))
    torch.testing.assert_close(whole + leaves.residual, call(leaves, shape, backend)[0])
    # d sum_t p_te / d logit_tj = p_te (delta_ej - p_tj)
    probs = torch.softmax(record.router_logits, 1).detach()
    (d_x,) = torch.autograd.grad(record.prob_sums[0, 1], leaves.x)
    expected = probs[:, 1:2] * (torch.eye(4, dtype=dtype)[1] - probs)
    expected[10:] = 0
    torch.testing.assert_close(d_x, expected @ leaves.router_weight.detach())


@pytest.mark.parametrize("backend", USABLE)
def test_noise_key_does_not_depend_on_the_place_in_the_batch(backend: str) -> None:
    shape, dtype = Shape(tokens=24), widest(backend)
    operands = inputs(shape, dtype)
    sample, token = torch.arange(24) // 6 + 100, torch.arange(24) % 6
    shuffle = torch.randperm(24)

    def run(order: Tensor) -> tuple[Tensor, MoAERecord]:
        key = NoiseKey.of(seed=3, epoch=1, layer=7, sample_key=sample[order], token=token[order])
        x = operands.x[order]
        return moae(x, operands.router(), operands.experts(), top_k=2, noise=key, backend=backend)

    (output, record), (shuffled, shuffled_record) = run(torch.arange(24)), run(shuffle)
    check_equal(shuffled_record.plan.topk_expert_ids, record.plan.topk_expert_ids[shuffle])
    # Float32 has 24 bits; a sum of a few terms of size 1 loses a few.
    close = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(shuffled, output[shuffle], rtol=close, atol=close)
    key = NoiseKey.of(seed=3, epoch=1, layer=7, sample_key=sample, token=token)
    as_tensor, _ = moae(
        operands.x, operands.router(), operands.experts(), top_k=2, noise=key.normal(4, dtype), backend=backend
    )
    # A kernel makes the noise with its own logarithm and cosine, up to 2 units in the last place from the definition's.
    near = 1e-6 if backend == "triton" else 0
    torch.testing.assert_close(as_tensor, output, rtol=near, atol=near)
    quiet, _ = moae(operands.x, operands.router(), operands.experts(), top_k=2, backend=backend)
    assert not torch.allclose(quiet, output)


@pytest.mark.parametrize("factor", [None, 0.7])
def test_gradcheck_of_the_definition(factor: float | None) -> None:
    shape = Shape(tokens=5, width=4, num_experts=3, hidden=3, factor=factor)
    leaves = inputs(shape, torch.float64).leaves(torch.float64)
    noise = torch.randn(5, 3, dtype=torch.float64)

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        operands = Inputs(**{f.name: value for f, value in zip(fields(Inputs), values, strict=True)})
        output, record = call(operands, shape, "reference", noise=noise)
        return output, record.gates, record.prob_sums, record.router_logits

    assert torch.autograd.gradcheck(function, tuple(getattr(leaves, f.name) for f in fields(leaves)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", USABLE)
def test_same_bits_every_time(backend: str, dtype: torch.dtype) -> None:
    skip_if_refused(backend, dtype)
    shape = Shape(tokens=60 if backend == "triton" else 200, width=64, hidden=16, num_experts=8, factor=1.0)
    operands, grads = inputs(shape, dtype), upstream(shape)
    first = results(operands, shape, backend, dtype, grads, None)
    for _ in range(2 if backend == "triton" else 5):
        again = results(operands, shape, backend, dtype, grads, None)
        for key, value in again.items():
            assert torch.equal(value, first[key]), key


@pytest.mark.parametrize("backend", RIVALS)
def test_gradients_accumulate_over_two_steps(backend: str) -> None:
    shape, dtype = Shape(), widest(backend)
    operands = inputs(shape, dtype)
    both, single = operands.leaves(dtype), operands.leaves(dtype)
    for scale in (1.0, -3.0):
        (call(both, shape, backend)[0].square().sum() * scale).backward()
    (call(single, shape, "reference")[0].square().sum() * -2).backward()
    for f in fields(both):
        grad, expected = getattr(both, f.name).grad, getattr(single, f.name).grad
        assert (grad is None) == (expected is None), f.name
        if grad is not None:
            # In float32 the two backends are as far from the truth as from each other.
            close = 1e-11 if dtype == torch.float64 else 1e-4
            torch.testing.assert_close(grad, expected, rtol=close, atol=close, msg=f.name)


@pytest.mark.parametrize("backend", RIVALS)
def test_non_contiguous_operands(backend: str) -> None:
    shape = Shape(tokens=20)
    operands = inputs(shape, torch.float32)
    strided = Inputs(**{f.name: torch.stack([getattr(operands, f.name)] * 2, -1)[..., 1] for f in fields(operands)})
    torch.testing.assert_close(call(strided, shape, backend)[0], call(operands, shape, backend)[0])


@pytest.mark.parametrize("backend", RIVALS)
def test_traces_without_breaks(backend: str) -> None:
    shape = Shape(tokens=40)
    operands = inputs(shape, torch.float32)
    plain, compiled = operands.leaves(torch.float32), operands.leaves(torch.float32)

    def loss(leaves: Inputs) -> Tensor:
        output, record = call(leaves, shape, backend)
        return output.square().sum() + record.prob_sums.square().sum()

    loss(plain).backward()
    torch.compile(loss, backend="aot_eager", fullgraph=True)(compiled).backward()
    for f in fields(plain):
        if getattr(plain, f.name).grad is not None:
            torch.testing.assert_close(getattr(compiled, f.name).grad, getattr(plain, f.name).grad, msg=f.name)


def test_bad_calls_are_refused() -> None:
    operands = inputs(Shape(), torch.float32)
    router, experts = operands.router(), operands.experts()
    with pytest.raises(ValueError, match=r"x: expected \(T, D\)"):
        moae(operands.x[None], router, experts, top_k=2)
    with pytest.raises(ValueError, match="top_k: expected 1 to 4, got 5"):
        moae(operands.x, router, experts, top_k=5)
    with pytest.raises(ValueError, match="groups: expected ascending"):
        moae(operands.x, router, experts, top_k=2, groups=(0, 40))
    with pytest.raises(ValueError, match=r"noise: expected \(50, 4\), got \(50, 3\)"):
        moae(operands.x, router, experts, top_k=2, noise=torch.zeros(50, 3))
    quiet = Router(weight=operands.router_weight, bias=operands.router_bias)
    with pytest.raises(ValueError, match="noise_weight"):
        moae(operands.x, quiet, experts, top_k=2, noise=torch.zeros(50, 4))
    with pytest.raises(ValueError, match="experts: expected the dtype of x"):
        moae(operands.x.bfloat16(), router, experts, top_k=2)
    with pytest.raises(ValueError, match="unknown backend 'fastest'"):
        moae(operands.x, router, experts, top_k=2, backend="fastest")
    with pytest.raises(ValueError, match=r"Experts.fc2_weight: expected \(4, 32, 8\)"):
        Experts(
            fc1_weight=experts.fc1_weight,
            fc1_bias=experts.fc1_bias,
            fc2_weight=experts.fc1_weight,
            fc2_bias=experts.fc2_bias,
        )
