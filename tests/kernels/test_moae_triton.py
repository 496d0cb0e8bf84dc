"""The Triton backend of MoAE as a whole: half precision, gradients of every output, counts, memory, tracing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import pytest
import torch
from torch import Tensor

from kernels.launch import is_interpreted
from kernels.moae import Experts, MoAERecord, Router, moae
from kernels.numerics import check, check_equal
from kernels.philox import NoiseKey

pytest.importorskip("triton")

from launch_counting import counting, saved_bytes

from kernels.moae.triton_op import Settings, triton_moae

pytestmark = pytest.mark.skipif(not is_interpreted(), reason="tensors on the CPU need Triton's interpreter")


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaves:
    x: Tensor
    residual: Tensor
    weight: Tensor
    bias: Tensor
    noise_weight: Tensor
    noise_bias: Tensor
    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor

    def converted(self, dtype: torch.dtype, router: torch.dtype | None = None) -> Leaves:
        """Fresh leaves of these values; the router's may have a type of their own."""

        def convert(name: str) -> Tensor:
            wanted = router if router is not None and name.endswith(("weight", "bias")) and "fc" not in name else dtype
            value: Tensor = getattr(self, name)
            return value.detach().to(wanted, copy=True).requires_grad_()

        return Leaves(**{field.name: convert(field.name) for field in fields(self)})

    def router(self) -> Router:
        return Router(weight=self.weight, bias=self.bias, noise_weight=self.noise_weight, noise_bias=self.noise_bias)

    def experts(self) -> Experts:
        return Experts(
            fc1_weight=self.fc1_weight, fc1_bias=self.fc1_bias, fc2_weight=self.fc2_weight, fc2_bias=self.fc2_bias
        )

    def all(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


def leaves(*, tokens: int = 40, width: int = 32, num_experts: int = 4, hidden: int = 16, device: str = "cpu") -> Leaves:
    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*size, device=device).mul(scale)

    t, d, e, h = tokens, width, num_experts, hidden
    return Leaves(
        x=normal(t, d),
        residual=normal(t, d),
        weight=normal(e, d, scale=d**-0.5),
        bias=normal(e, scale=0.1),
        noise_weight=normal(e, d, scale=0.3 * d**-0.5),
        noise_bias=normal(e, scale=0.1),
        fc1_weight=normal(e, h, d, scale=d**-0.5),
        fc1_bias=normal(e, h, scale=0.1),
        fc2_weight=normal(e, d, h, scale=h**-0.5),
        fc2_bias=normal(e, d, scale=0.1),
    )


def key_of(tokens: int) -> NoiseKey:
    return NoiseKey.of(seed=9, epoch=2, layer=4, sample_key=torch.arange(tokens) // 7, token=torch.arange(tokens) % 7)


def call(
    given: Leaves,
    backend: str = "triton",
    *,
    noise: Tensor | NoiseKey | None = None,
    groups: tuple[int, ...] | None = None,
    factor: float | None = None,
    residual: bool = True,
) -> tuple[Tensor, MoAERecord]:
    return moae(
        given.x,
        given.router(),
        given.experts(),
        top_k=2,
        capacity_factor=factor,
        noise=noise,
        groups=groups,
        residual=given.residual if residual else None,
        backend=backend,
    )


def gradients(given: Leaves, roots: list[Tensor]) -> dict[str, Tensor]:
    """Gradients of all leaves for fixed upstream gradients of ``roots``."""
    generator = torch.Generator().manual_seed(5)
    upstream = [torch.randn(root.shape, generator=generator).to(root.dtype) for root in roots]
    found = torch.autograd.grad(roots, given.all(), upstream, allow_unused=True)
    return {f.name: g for f, g in zip(fields(given), found, strict=True) if g is not None}


Roots = Callable[[Tensor, MoAERecord], list[Tensor]]
ROOTS: dict[str, Roots] = {
    "everything": lambda output, record: [output, record.gates, record.router_logits, record.prob_sums],
    "output": lambda output, record: [output],
    "gates": lambda output, record: [record.gates],
    "logits": lambda output, record: [record.router_logits],
    "balance": lambda output, record: [record.prob_sums],
}


def compare(
    given: Leaves, dtype: torch.dtype, roots: Roots, router: torch.dtype | None = None, **options: object
) -> None:
    """Outputs and gradients of the Triton row against the definition in float64 and in the working type."""

    def results(kind: Leaves, backend: str) -> dict[str, Tensor]:
        output, record = call(kind, backend, **options)  # type: ignore[arg-type]
        found = {"output": output, "gates": record.gates, "logits": record.router_logits, "sums": record.prob_sums}
        return found | gradients(kind, roots(output, record))

    rounded = given.converted(dtype, router)
    ours = results(rounded, "triton")
    native = results(given.converted(dtype, router), "reference")
    exact = results(rounded.converted(torch.float64), "reference")
    assert ours.keys() == native.keys()
    for name, value in ours.items():
        # An output or gradient is held to the coarser of the types on its way.
        check(value, native[name], exact[name], dtype, name=name)


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("name", ROOTS)
def test_gradients_of_each_output(name: str) -> None:
    options = {"noise": torch.randn(40, 4), "groups": (0, 15, 40), "factor": 0.9}
    compare(leaves(), torch.float32, ROOTS[name], **options)


@pytest.mark.parametrize("router", [torch.float16, torch.float32], ids=["half router", "float32 router"])
def test_half_precision(router: torch.dtype) -> None:
    compare(leaves(tokens=70), torch.float16, ROOTS["everything"], router, noise=torch.randn(70, 4), groups=(0, 9, 70))


def test_without_residual_noise_or_tokens() -> None:
    compare(leaves(), torch.float32, ROOTS["everything"], residual=False)
    for tokens in (0, 1):
        compare(leaves(tokens=tokens), torch.float32, ROOTS["everything"], factor=1.0)


def test_more_groups_than_the_kernels_know() -> None:
    compare(leaves(), torch.float32, ROOTS["everything"], groups=(0, 3, 9, 9, 20, 31, 40))


def test_noise_key_chooses_as_the_definition() -> None:
    given = leaves(tokens=200).converted(torch.float32)
    output, record = call(given, noise=key_of(200))
    expected, reference = call(given, "reference", noise=key_of(200))
    check_equal(record.plan.topk_expert_ids, reference.plan.topk_expert_ids)
    check_equal(record.counts, reference.counts)
    # Noise made in the kernel differs by up to 2 units in the last place, and the sums of both have another order.
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_same_bits_every_time() -> None:
    given = leaves(tokens=70).converted(torch.float16)

    def run() -> list[Tensor]:
        output, record = call(given, noise=key_of(70), factor=1.0)
        return [output, *gradients(given, ROOTS["everything"](output, record)).values()]

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def meta_call(
    tokens: int, width: int, num_experts: int, hidden: int
) -> tuple[Leaves, Callable[[], tuple[Tensor, ...]]]:
    """Leaves in bfloat16 without values, and the op on them with a noise key and two groups."""
    given = leaves(tokens=tokens, width=width, num_experts=num_experts, hidden=hidden, device="meta")
    given = given.converted(torch.bfloat16)
    counters = [torch.empty(size, dtype=torch.int64, device="meta") for size in (1, tokens, tokens)]
    maps = [given.weight, given.bias, given.noise_weight, given.noise_bias]
    experts = [given.fc1_weight, given.fc1_bias, given.fc2_weight, given.fc2_bias]
    settings = Settings(top_k=2, capacity=tokens // 3, groups=(0, tokens // 5, tokens)).flat()
    return given, lambda: triton_moae(given.x, maps, experts, counters, given.residual, settings)


def test_starts_four_forward_and_four_backward() -> None:
    given, run = meta_call(640, 32, 4, 16)
    with counting() as started:
        found = run()
        assert started.total == 4, started.describe()
        started.restart()
        torch.autograd.grad(found[:4], given.all(), [torch.empty_like(root) for root in found[:4]])
        assert started.total == 4, started.describe()
    assert not started.waits


@pytest.mark.parametrize("tokens", [1600, 12_800])
def test_memory_per_token(tokens: int) -> None:
    """ViT-B: at most 1 KB per token is kept beside x, and at most 4 KB of scratch is alive at a time."""
    given, run = meta_call(tokens, 768, 8, 192)
    with counting() as started:
        with saved_bytes(exclude=given.all()) as sizes:
            found = run()
        assert sizes.total() <= 1024 * tokens, sizes
        assert started.workspace <= 4096 * tokens
        upstream = torch.empty_like(found[0])
        started.restart()
        # Held, so that they are results and no scratch.
        results = torch.autograd.grad(found[0], given.all(), upstream, allow_unused=True)
        assert started.workspace <= 4096 * tokens, len(results)


def test_op_is_a_good_citizen() -> None:
    given = leaves(tokens=9, width=16, hidden=8).converted(torch.float32)
    maps, experts = [given.weight, given.bias], [given.fc1_weight, given.fc1_bias, given.fc2_weight, given.fc2_bias]
    settings = Settings(top_k=2, capacity=-1, groups=(0, 4, 9))
    torch.library.opcheck(triton_moae, (given.x, maps, experts, [], given.residual, settings.flat()))
    # With a capacity the kept pre-activations have rows that nothing writes or reads, so values are not compared.
    limited = settings._replace(capacity=3).flat()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(triton_moae, (given.x, maps, experts, [], given.residual, limited), test_utils=checks)


def test_traces_with_a_noise_key() -> None:
    plain = leaves(tokens=24).converted(torch.float32)
    compiled, noise = plain.converted(torch.float32), key_of(24)

    def loss(given: Leaves) -> Tensor:
        output, record = call(given, noise=noise, groups=(0, 10, 24), factor=1.0)
        return output.square().sum() + record.prob_sums.square().sum() + record.gates.square().sum()

    loss(plain).backward()
    torch.compile(loss, backend="aot_eager", fullgraph=True)(compiled).backward()
    for expected, found in zip(plain.all(), compiled.all(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


def test_automatic_choice_on_a_cpu_is_never_the_interpreter() -> None:
    from kernels.backends import chosen

    given = leaves()
    moae(given.x, given.router(), given.experts(), top_k=2)
    assert "triton" not in {name for call_, name in chosen().items() if call_.startswith("moae(device=cpu")}
