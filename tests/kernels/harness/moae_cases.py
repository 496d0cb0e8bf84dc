"""Cases of the mixture of adapter experts. Letters: T tokens, D width, E experts, Hd hidden width, k chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from harness.operation import Named, Operands, Operation
from harness.random_operands import normals
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from kernels.moae import BACKENDS, Experts, Router, moae
from kernels.philox import NoiseKey

# Float32 scores may be off by a few millionths; a gap this wide leaves the choice of experts beyond doubt.
_SAFE_GAP = 2e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class MoaeCase:
    """``skew`` lowers the bias of each further expert; ``noise`` is none, tensor or key; ``cuts`` are group borders."""

    tokens: int = 20
    width: int = 32
    num_experts: int = 4
    hidden: int = 8
    top_k: int = 2
    factor: float | None = None
    skew: float = 0.0
    noise: str = "none"
    residual: bool = False
    cuts: tuple[int, ...] = ()
    seed: int = 0

    @property
    def groups(self) -> tuple[int, ...]:
        """Borders of the token ranges of the balance statistics."""
        return (0, *sorted(min(cut, self.tokens) for cut in self.cuts), self.tokens)


def _cases(interpreted: bool) -> SearchStrategy[MoaeCase]:
    tokens = (0, 1, 2, 5, 13, 15, 16, 17, 31, 32, 33, 61, 64, 65)
    widths = (8, 16, 21, 32, 33, 48, 64, 80)
    built = st.builds(
        MoaeCase,
        tokens=st.sampled_from(tokens if interpreted else (*tokens, 97, 127, 128, 129, 200)),
        width=st.sampled_from(widths[:5] if interpreted else (*widths, 128)),
        num_experts=st.integers(1, 9),
        hidden=st.sampled_from((1, 7, 8, 12, 16, 24, 33) if interpreted else (1, 7, 8, 12, 16, 24, 33, 48, 70)),
        top_k=st.integers(1, 5),
        factor=st.sampled_from((None, None, 0.0, 0.1, 0.5, 1.0, 1.25)),
        skew=st.sampled_from((0.0, 0.0, 0.5, 3.0, 12.0)),
        noise=st.sampled_from(("none", "tensor", "key")),
        residual=st.booleans(),
        cuts=st.lists(st.integers(0, 65), max_size=2).map(tuple),
        seed=st.integers(0, 2**31),
    )
    return built.map(lambda case: replace(case, top_k=min(case.top_k, case.num_experts)))


_EDGES = (
    MoaeCase(tokens=0),
    MoaeCase(tokens=0, factor=1.0, noise="key"),
    MoaeCase(tokens=1, noise="tensor", residual=True),
    MoaeCase(tokens=50, skew=12.0, top_k=1, num_experts=5),
    MoaeCase(tokens=50, skew=12.0, top_k=1, num_experts=5, factor=0.5, residual=True),
    MoaeCase(tokens=31, factor=0.0, noise="key", residual=True),
    MoaeCase(tokens=31, factor=1.0, noise="tensor", cuts=(10, 10)),
    MoaeCase(tokens=17, num_experts=1, top_k=1),
    MoaeCase(tokens=23, num_experts=5, top_k=5, noise="key"),
    MoaeCase(tokens=29, width=21, hidden=7, num_experts=3, cuts=(7,), residual=True),
    MoaeCase(tokens=33, width=64, hidden=48, num_experts=8),
)


def _draw(case: MoaeCase, dtype: torch.dtype, seed: int) -> Operands:
    t, d, e, h = case.tokens, case.width, case.num_experts, case.hidden
    normal = normals(seed, dtype)
    skew = (-case.skew * torch.arange(e, dtype=torch.float64)).to(dtype).double()
    leaves = {
        "x": normal(t, d),
        "router_weight": normal(e, d, scale=d**-0.5),
        "router_bias": (normal(e, scale=0.1) + skew).to(dtype).double(),
        "noise_weight": normal(e, d, scale=0.5 * d**-0.5),
        "noise_bias": normal(e, scale=0.1),
        "fc1_weight": normal(e, h, d, scale=d**-0.5),
        "fc1_bias": normal(e, h, scale=0.1),
        "fc2_weight": normal(e, d, h, scale=h**-0.5),
        "fc2_bias": normal(e, d, scale=0.1),
    }
    if case.residual:
        leaves["residual"] = normal(t, d)
    upstream = {
        "output": normal(t, d),
        "prob_sums": normal(len(case.groups) - 1, e),
        "router_logits": normal(t, e),
        "gates": normal(t, case.top_k),
    }
    fixed = {
        "noise": normals(seed + 1, torch.float32)(t, e).float(),
        "sample_key": torch.arange(t) // 7 + (seed << 8),
        "token": torch.arange(t) % 7,
    }
    return Operands(leaves=leaves, upstream=upstream, fixed=fixed)


def _gap(case: MoaeCase, operands: Operands) -> float:
    """Least distance between scores of which one is chosen and the next in order."""
    logits = _exact(case, operands.leaves, operands.fixed)["router_logits"]
    ordered = logits.sort(1, descending=True).values
    gaps = ordered.diff(dim=1).neg()[:, : case.top_k]
    return float(gaps.min()) if gaps.numel() else 1.0


def _operands(case: MoaeCase, dtype: torch.dtype) -> Operands:
    """The first draw from the seed on in which rounding cannot change the choice of experts."""
    for attempt in range(200):
        operands = _draw(case, dtype, case.seed + 2 * attempt)
        if _gap(case, operands) > _SAFE_GAP:
            return operands
    raise ValueError(f"{case}: no draw keeps the scores of the experts apart")


def _noise(case: MoaeCase, fixed: Named) -> Tensor | NoiseKey | None:
    if case.noise == "tensor":
        return fixed["noise"]
    if case.noise == "key":
        return NoiseKey.of(seed=case.seed, epoch=1, layer=7, sample_key=fixed["sample_key"], token=fixed["token"])
    return None


def _forward(case: MoaeCase, leaves: Named, fixed: Named, backend: str) -> Named:
    router = Router(
        weight=leaves["router_weight"],
        bias=leaves["router_bias"],
        noise_weight=leaves["noise_weight"],
        noise_bias=leaves["noise_bias"],
    )
    output, record = moae(
        leaves["x"],
        router,
        Experts(**{name: leaves[name] for name in ("fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias")}),
        top_k=case.top_k,
        capacity_factor=case.factor,
        noise=_noise(case, fixed),
        groups=case.groups,
        residual=leaves.get("residual"),
        backend=backend,
    )
    return {
        "output": output,
        "prob_sums": record.prob_sums,
        "router_logits": record.router_logits,
        "gates": record.gates,
        "counts": record.counts,
        "topk_expert_ids": record.plan.topk_expert_ids,
        "expert_offsets": record.plan.expert_offsets,
        "order": record.plan.order,
        "slots": record.plan.slots,
        "kept": record.plan.kept,
    }


def _all_experts(case: MoaeCase, leaves: Named, fixed: Named) -> Named:
    return _forward(case, leaves, fixed, "dense_all")


def _exact(case: MoaeCase, leaves: Named, fixed: Named) -> Named:
    return _forward(case, leaves, fixed, "reference")


MOAE = Operation(
    name="moae",
    backends=BACKENDS,
    cases=_cases,
    edges=_EDGES,
    # No score comes near another: the least gap of this seed is above 0.2.
    smooth=MoaeCase(tokens=3, width=16, num_experts=3, hidden=5, noise="tensor", residual=True, seed=1),
    busy=MoaeCase(tokens=300, width=128, num_experts=8, hidden=32, factor=1.0, noise="key", residual=True),
    operands=_operands,
    forward=_forward,
    exact=_exact,
    native=_exact,
    forms=(_all_experts,),
)
