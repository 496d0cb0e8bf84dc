"""Cases of the expert mixture: token counts of the released batches, with router noise and capacity as released."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import linear, softplus

from kernels.bench import floors
from kernels.bench.records import HALF_ONLY, USUAL_DTYPES, Case
from kernels.moae import BACKENDS, Experts, Router, moae

_EVERYWHERE = frozenset({"cpu", "cuda"})
_SWEEP_EXPERTS = (4, 16, 32)
_SWEEP_TOKENS = (400, 6400)
_SWEEP_PEERS = frozenset({*BACKENDS, "grouped_mm", "index_select"})
# Scores of a token's second and third expert closer than this would be ordered by rounding.
_MARGIN = 1e-3
# Tokens, width and experts of the table beside the backends: dropless, hidden a quarter of the width.
_TABLE = (
    (64, 128, 4),
    (576, 128, 4),
    (576, 192, 8),
    (1024, 192, 8),
    (2304, 128, 4),
    (4600, 128, 4),
    (4600, 192, 8),
    (1600, 768, 4),
    (1600, 768, 8),
)
_SEED = 21


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaves:
    """The learned tensors and x; T tokens, D width, E experts of hidden width Hd."""

    x: Tensor
    router_weight: Tensor
    router_bias: Tensor
    noise_weight: Tensor
    noise_bias: Tensor
    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor

    def fresh(self, dtype: torch.dtype | None = None) -> Leaves:
        """New autograd leaves of the same values."""
        return Leaves(**{f.name: getattr(self, f.name).detach().to(dtype).requires_grad_() for f in fields(self)})

    def values(self) -> tuple[Tensor, ...]:
        """All tensors in their order."""
        return tuple(getattr(self, f.name) for f in fields(self))

    def router(self) -> Router:
        """The router's tensors as the op takes them."""
        return Router(
            weight=self.router_weight, bias=self.router_bias, noise_weight=self.noise_weight, noise_bias=self.noise_bias
        )

    def experts(self) -> Experts:
        """The experts' tensors as the op takes them."""
        return Experts(
            fc1_weight=self.fc1_weight, fc1_bias=self.fc1_bias, fc2_weight=self.fc2_weight, fc2_bias=self.fc2_bias
        )


RESULTS = ("output", *(f"d_{f.name}" for f in fields(Leaves)))


@dataclass(frozen=True, kw_only=True, slots=True)
class MoaeInputs:
    """Operands, unit normal noise (T, E), the upstream gradient (T, D) and the host numbers of a call."""

    leaves: Leaves
    noise: Tensor
    upstream: Tensor
    top_k: int
    capacity_factor: float | None

    @property
    def capacity(self) -> int:
        """Most tokens an expert serves; all of them without a limit."""
        tokens, num_experts = self.noise.shape
        if self.capacity_factor is None:
            return tokens
        return int(tokens * self.top_k / num_experts * self.capacity_factor)


@dataclass(frozen=True, kw_only=True, slots=True)
class MoaeShape:
    """Sizes of a case."""

    tokens: int
    width: int = 768
    num_experts: int = 8
    hidden: int = 192
    top_k: int = 2
    capacity_factor: float | None = 1.0


def make_inputs(shape: MoaeShape, device: torch.device, dtype: torch.dtype) -> MoaeInputs:
    """Random operands rounded to ``dtype``, no token on the border between two experts."""
    generator = torch.Generator(device=device).manual_seed(_SEED)
    t, d, e, h = shape.tokens, shape.width, shape.num_experts, shape.hidden

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*size, generator=generator, device=device, dtype=torch.float32) * scale).to(dtype)

    leaves = Leaves(
        x=normal(t, d),
        router_weight=normal(e, d, scale=d**-0.5),
        router_bias=normal(e, scale=0.02),
        noise_weight=normal(e, d, scale=0.1 * d**-0.5),
        noise_bias=normal(e, scale=0.1),
        fc1_weight=normal(e, h, d, scale=d**-0.5),
        fc1_bias=normal(e, h, scale=0.1),
        fc2_weight=normal(e, d, h, scale=h**-0.5),
        fc2_bias=normal(e, d, scale=0.1),
    )
    noise = torch.randn(t, e, generator=generator, device=device, dtype=torch.float32)
    return MoaeInputs(
        leaves=leaves,
        noise=_clear_of_ties(leaves, noise, shape.top_k),
        upstream=normal(t, d),
        top_k=shape.top_k,
        capacity_factor=shape.capacity_factor,
    )


def _clear_of_ties(leaves: Leaves, noise: Tensor, top_k: int) -> Tensor:
    """``noise`` with the last chosen expert of undecided tokens pushed up."""
    if top_k >= noise.shape[1]:
        return noise
    x = leaves.x.double()
    spread = softplus(linear(x, leaves.noise_weight.double(), leaves.noise_bias.double()))
    scores = linear(x, leaves.router_weight.double(), leaves.router_bias.double()) + noise * spread
    best = scores.topk(top_k + 1, dim=1)
    undecided = best.values[:, top_k - 1] - best.values[:, top_k] < _MARGIN
    push = torch.zeros_like(noise).scatter_(1, best.indices[:, top_k - 1 : top_k], 1.0)
    return noise + push * undecided[:, None]


def _case(
    name: str,
    shape: MoaeShape,
    defaults: frozenset[str],
    *,
    axes: Mapping[str, int] | None = None,
    peers: frozenset[str] | None = None,
) -> Case:
    return Case(
        name=name,
        op="moae",
        inputs=lambda device, dtype: make_inputs(shape, device, dtype),
        floors=lambda dtype: floors.moae(
            shape.tokens, shape.width, shape.num_experts, shape.hidden, shape.top_k, dtype.itemsize
        ),
        defaults=defaults,
        axes=axes or {},
        dtypes=USUAL_DTYPES if peers is None else HALF_ONLY,
        peers=peers,
        peers_reason="left out of the sweeps over tokens and experts",
    )


def _cases() -> Iterator[Case]:
    gpu = frozenset({"cuda"})
    # ViT-B: 16 images, 16 clips, 64 clips.
    yield _case("t1600", MoaeShape(tokens=1600), _EVERYWHERE, axes={"tokens": 1600, "experts": 8})
    yield _case("t12800", MoaeShape(tokens=12800), _EVERYWHERE, axes={"tokens": 12800})
    yield _case("t51200", MoaeShape(tokens=51200), gpu, axes={"tokens": 51200})
    yield _case("tiny", MoaeShape(tokens=40, width=32, num_experts=4, hidden=8), frozenset(), axes={"tokens": 40})
    for tokens, width, count in _TABLE:
        shape = MoaeShape(tokens=tokens, width=width, num_experts=count, hidden=width // 4, capacity_factor=None)
        yield _case(f"table_t{tokens}_d{width}_e{count}", shape, frozenset())
    for tokens in _SWEEP_TOKENS:
        yield _case(
            f"sweep_t{tokens}", MoaeShape(tokens=tokens), _EVERYWHERE, axes={"tokens": tokens}, peers=_SWEEP_PEERS
        )
    for count in _SWEEP_EXPERTS:
        yield _case(
            f"sweep_e{count}",
            MoaeShape(tokens=1600, num_experts=count),
            _EVERYWHERE,
            axes={"experts": count},
            peers=_SWEEP_PEERS,
        )


CASES = {case.name: case for case in _cases()}


def expected(inputs: MoaeInputs, dtype: torch.dtype) -> dict[str, Tensor]:
    """Output and all gradients by the definition, in ``dtype``."""
    leaves = inputs.leaves.fresh(dtype)
    out = call_backend(inputs, leaves, "reference")
    gradients = torch.autograd.grad(out, leaves.values(), inputs.upstream.to(dtype))
    return dict(zip(RESULTS, (out.detach(), *gradients), strict=True))


def reductions(inputs: MoaeInputs) -> dict[str, int]:
    """Weight gradients are sums over tokens."""
    return dict.fromkeys(RESULTS[2:], inputs.noise.shape[0])


def call_backend(inputs: MoaeInputs, leaves: Leaves, backend: str | None) -> Tensor:
    """The op's output (T, D)."""
    output, _ = moae(
        leaves.x,
        leaves.router(),
        leaves.experts(),
        top_k=inputs.top_k,
        capacity_factor=inputs.capacity_factor,
        noise=inputs.noise,
        backend=backend,
    )
    return output
