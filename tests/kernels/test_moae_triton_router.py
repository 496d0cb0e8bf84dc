"""The Triton router, its noise, the plan and the router's backward, kernel by kernel against the definitions."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kernels.launch import is_interpreted, recording
from kernels.moae.plan import RoutingPlan, portable_plan
from kernels.moae.records import MoAERequest, Router
from kernels.moae.router import record, route, router_logits
from kernels.moae.tiles import router_tile
from kernels.numerics import check, check_equal
from kernels.philox import NoiseKey, philox

pytest.importorskip("triton")

import triton
import triton.language as tl

from kernels.moae.triton_parts import wide_times_wide
from kernels.moae.triton_plan import Blocks, plan, plan_forward
from kernels.moae.triton_router import Noise, Routed, padded_experts, router_forward, unit_normals
from kernels.moae.triton_router_backward import RouterGradients, RouterState, router_backward

pytestmark = pytest.mark.skipif(not is_interpreted(), reason="tensors on the CPU need Triton's interpreter")

PLAN_FIELDS = ("topk_expert_ids", "expert_offsets", "order", "slots", "kept")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """T tokens of width D, E experts, k chosen; ``noise`` is none, values or key."""

    tokens: int = 50
    width: int = 32
    num_experts: int = 4
    top_k: int = 2
    noise: str = "values"
    groups: tuple[int, ...] = ()
    capacity: int | None = None

    @property
    def borders(self) -> tuple[int, ...]:
        return self.groups or (0, self.tokens)


CASES = {
    "usual": Case(groups=(0, 16, 50)),
    "quiet": Case(noise="none"),
    "keyed": Case(tokens=90, width=40, num_experts=8, noise="key", groups=(0, 66, 90)),
    "odd": Case(tokens=67, width=21, num_experts=5, top_k=3, groups=(0, 10, 10, 60, 67), capacity=9),
    "one expert": Case(tokens=9, num_experts=1, top_k=1, capacity=0),
    "every expert": Case(tokens=9, num_experts=3, top_k=3, noise="key"),
    "many experts": Case(tokens=20, width=20, num_experts=40, top_k=3, noise="key", capacity=4),
    "no token": Case(tokens=0),
    "one token": Case(tokens=1, groups=(0, 0, 1)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Operands:
    x: Tensor
    maps: tuple[Tensor, ...]
    values: Tensor
    key: NoiseKey

    def router(self, dtype: torch.dtype = torch.float32) -> Router:
        weight, bias, noise_weight, noise_bias = (tensor.to(dtype) for tensor in self.maps)
        return Router(weight=weight, bias=bias, noise_weight=noise_weight, noise_bias=noise_bias)

    def noise(self, case: Case) -> Noise:
        return {
            "none": Noise(),
            "values": Noise(values=self.values),
            "key": Noise(key=self.key.key, sample_key=self.key.sample_key, token=self.key.token),
        }[case.noise]

    def request(self, case: Case) -> MoAERequest:
        noise: dict[str, Tensor | NoiseKey | None] = {"none": None, "values": self.values, "key": self.key}
        return MoAERequest(
            top_k=case.top_k, capacity=case.capacity, noise=noise[case.noise], groups=case.borders, residual=None
        )


def operands(case: Case, dtype: torch.dtype) -> Operands:
    t, d, e = case.tokens, case.width, case.num_experts
    return Operands(
        x=torch.randn(t, d).to(dtype),
        maps=(torch.randn(e, d) * d**-0.5, torch.randn(e) * 0.1, torch.randn(e, d) * 0.3 * d**-0.5, torch.randn(e)),
        values=torch.randn(t, e),
        key=NoiseKey.of(seed=2**40 + 5, epoch=3, layer=7, sample_key=torch.randint(2**62, (t,)), token=torch.arange(t)),
    )


def blocks_of(case: Case, dtype: torch.dtype) -> Blocks:
    columns = padded_experts(case.num_experts, case.noise != "none")[1]
    return Blocks.of(case.borders, router_tile(90, dtype, columns).tokens)


def run_forward(case: Case, given: Operands) -> tuple[Routed, RoutingPlan, Tensor, Tensor]:
    blocks = blocks_of(case, given.x.dtype)
    routed = router_forward(given.x, given.router(), given.noise(case), case.top_k, blocks)
    counts, probs = routed.block_counts, routed.block_probs
    return routed, *plan_forward(routed.ids, counts, probs, case.capacity, blocks, num_groups=len(case.borders) - 1)


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_forward(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    given = operands(case, dtype)
    with recording() as launches:
        routed, found, counts, prob_sums = run_forward(case, given)
    assert len(launches) == (2 if case.tokens else 1)
    native = route(given.x, given.router(), given.request(case))
    exact = router_logits(given.x.double(), given.router(torch.float64), given.request(case))
    # Scores are as exact for half-precision tokens as for float32 ones.
    check(routed.logits, native.logits, exact, torch.float32, name="logits")
    for field in PLAN_FIELDS:
        check_equal(getattr(found, field), getattr(native.plan, field), name=field)
    check(routed.gates, native.gates, torch.softmax(exact.gather(1, found.topk_expert_ids), 1), torch.float32)
    statistics = record(native, given.request(case))
    check_equal(counts, statistics.counts, name="counts")
    sums = record(route(given.x.double(), given.router(torch.float64), given.request(case)), given.request(case))
    check(prob_sums, statistics.prob_sums, sums.prob_sums, torch.float32, name="prob_sums")


@triton.jit
def words_kernel(c0, c1, c2, c3, words, key, N: tl.constexpr):
    i = tl.arange(0, N)
    w0, w1, w2, w3 = tl.philox(key, tl.load(c0 + i), tl.load(c1 + i), tl.load(c2 + i), tl.load(c3 + i))
    tl.store(words + i, w0.to(tl.int64))
    tl.store(words + N + i, w1.to(tl.int64))
    tl.store(words + 2 * N + i, w2.to(tl.int64))
    tl.store(words + 3 * N + i, w3.to(tl.int64))


def test_philox_bits_are_those_of_the_definition() -> None:
    counters = torch.randint(-(2**31), 2**31, (4, 64), dtype=torch.int32)
    key = (0x9ABCDEF0, 0xFEDCBA98)
    words = torch.empty(4, 64, dtype=torch.int64)
    words_kernel[(1,)](*counters, words, ((key[1] << 32 | key[0]) ^ (1 << 63)) - (1 << 63), N=64)
    expected = torch.stack(philox(tuple(counter.long() for counter in counters), key))
    check_equal(words, expected)


@triton.jit
def normals_kernel(sample_key, token, out, key, T, N: tl.constexpr, EP: tl.constexpr):
    t = tl.arange(0, N)
    values = unit_normals(sample_key, token, t, t < T, key, EP)
    tl.store(out + t[:, None] * EP + tl.arange(0, EP)[None, :], values)


def test_noise_is_the_definition_to_the_last_places() -> None:
    """Float32 logarithm, root and cosine against float64 rounded once, over 65,536 draws."""
    tokens, columns = 4096, 16
    key = NoiseKey.of(seed=1, epoch=2, layer=3, sample_key=torch.arange(tokens) * 2**33, token=torch.arange(tokens))
    out = torch.empty(tokens, columns)
    normals_kernel[(1,)](key.sample_key, key.token, out, key.key, tokens, N=tokens, EP=columns)
    error = (out.double() - key.normal(columns, torch.float64)).abs()
    assert error.max() < 6e-7
    assert error.square().mean().sqrt() < 1e-7


IDS = {
    "random": (torch.rand(150, 8).argsort(1)[:, :2], 8),
    "one expert takes all": (torch.full((200, 1), 3), 5),
    "most take the first": ((torch.rand(130, 6) - 0.3 * torch.arange(6)).argsort(1, descending=True)[:, :3], 6),
    "many blocks": (torch.rand(700, 33).argsort(1)[:, :2], 33),
    "nothing": (torch.zeros(0, 2, dtype=torch.int64), 4),
}


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("capacity", [None, 0, 1, 17, 10_000])
@pytest.mark.parametrize("name", IDS)
def test_plan_equals_the_portable_one(name: str, capacity: int | None) -> None:
    ids, num_experts = IDS[name]
    ours, theirs = plan(ids, num_experts, capacity), portable_plan(ids.contiguous(), num_experts, capacity)
    for field in PLAN_FIELDS:
        check_equal(getattr(ours, field), getattr(theirs, field), name=field)


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_backward(name: str, dtype: torch.dtype) -> None:
    """Gradients that arrive at the experts' rows and gates, and at gates, logits and prob_sums, together."""
    case = CASES[name]
    given, noisy = operands(case, dtype), case.noise != "none"
    routed, found, _, _ = run_forward(case, given)
    t, e, k, groups = case.tokens, case.num_experts, case.top_k, len(case.borders) - 1
    d_gates, grad_gates, grad_logits, grad_sums = (torch.randn(n) for n in ((t, k), (t, k), (t, e), (groups, e)))
    dx_rows = torch.randn(t * k, case.width).to(dtype)
    # Nothing has computed the rows of dropped assignments.
    dx_rows[int(found.kept.sum()) :] = torch.nan

    def expected(wide: torch.dtype) -> list[Tensor]:
        leaf = given.x.to(wide, copy=True).requires_grad_()
        maps = [tensor.to(wide, copy=True).requires_grad_() for tensor in given.maps]
        router = Router(weight=maps[0], bias=maps[1], noise_weight=maps[2], noise_bias=maps[3])
        routing = route(leaf, router, given.request(case))
        balance = record(routing, given.request(case)).prob_sums
        loss = (routing.gates * (d_gates + grad_gates)).sum() + (routing.logits * grad_logits).sum()
        (loss + (balance * grad_sums).sum()).backward()
        rows = torch.where(found.kept[:, :, None], dx_rows.to(wide)[found.slots], 0.0).sum(1)
        assert leaf.grad is not None
        return [leaf.grad + rows, *(map_.grad for map_ in maps if map_.grad is not None)]

    state = RouterState(
        logits=routed.logits,
        slope=routed.slope,
        noisy=noisy,
        gates=routed.gates,
        plan=found,
        bounds=blocks_of(case, dtype).bounds,
    )
    arriving = RouterGradients(
        dx_rows=dx_rows, d_gates=d_gates, grad_gates=grad_gates, grad_logits=grad_logits, grad_prob_sums=grad_sums
    )
    with recording() as launches:
        results = router_backward(given.x, given.router(dtype), state, arriving)
    assert len(launches) == (2 if case.tokens else 1)
    assert all(result is not None for result in results) == noisy
    again = router_backward(given.x, given.router(dtype), state, arriving) if name == "keyed" else results
    names = ("x", "weight", "bias", "noise_weight", "noise_bias")
    native, exact = expected(torch.float32), expected(torch.float64)
    for label, ours, repeated, plain, reference in zip(names, results, again, native, exact, strict=False):
        assert ours is not None and repeated is not None
        assert torch.equal(ours, repeated), label
        check(ours, plain.to(dtype), reference, dtype, name=label)


@triton.jit
def product_kernel(left, right, out, N: tl.constexpr, HALF: tl.constexpr):
    i = tl.arange(0, N)
    place = i[:, None] * N + i[None, :]
    tl.store(out + place, wide_times_wide(tl.load(left + place), tl.load(right + place), HALF))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_split_products_keep_small_and_large_numbers(scale: float) -> None:
    """Float16 alone ends at 6e-8 and 65,504."""
    left, right = torch.randn(16, 16) * scale, torch.randn(16, 16)
    out = torch.empty(16, 16)
    product_kernel[(1,)](left, right, out, N=16, HALF=tl.float16)
    # Two parts of 11 bits: products good to about 2^-20 of the largest.
    torch.testing.assert_close(out, left @ right, rtol=1e-4, atol=1e-5 * scale)
