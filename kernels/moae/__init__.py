"""Mixture of adapter experts: route each token to its top-k bottleneck adapters and add their gated outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.backends import Backend, Facts, resolve
from kernels.launch import is_interpreted, triton_refuses
from kernels.moae.plan import RoutingPlan, build_plan, expert_capacity
from kernels.moae.records import Experts, MoAERecord, MoAERequest, Router
from kernels.philox import NoiseKey

__all__ = ["BACKENDS", "Experts", "MoAERecord", "Router", "RoutingPlan", "build_plan", "expert_capacity", "moae"]


def _grouped_refuses(facts: Facts) -> str | None:
    if facts["device"] == "cuda" and facts["dtype"] != torch.bfloat16:
        return f"torch's grouped matmul takes bfloat16 on CUDA, not {facts['dtype']}"
    return None


def _per_expert_refuses(facts: Facts) -> str | None:
    return None if facts["device"] == "cpu" else "reads the rows of each expert on the host, which waits for the device"


def _triton_refuses(facts: Facts) -> str | None:
    reason = triton_refuses(facts)
    if reason is not None:
        return reason
    if facts["dtype"] not in (torch.float32, torch.float16, torch.bfloat16):
        return f"computes in float32, float16 and bfloat16, not {facts['dtype']}"
    if facts["dtype"] == torch.bfloat16 and is_interpreted():
        return "Triton's interpreter multiplies bfloat16 wrongly"
    return "keeps the scores of at most 256 experts in registers" if facts.get("many_experts") else None


# In order of preference on CPUs, by `s4d bench moae --device cpu`: benchmarks/results/cpu-2c-amd-epyc/all.json.
BACKENDS = {
    "per_expert": Backend(name="per_expert", function="kernels.moae.per_expert:moae", refuse=_per_expert_refuses),
    "grouped": Backend(name="grouped", function="kernels.moae.grouped:moae", refuse=_grouped_refuses),
    "dense_all": Backend(name="dense_all", function="kernels.moae.dense_all:moae"),
    "reference": Backend(name="reference", function="kernels.moae.reference:moae"),
    "triton": Backend(name="triton", function="kernels.moae.triton_op:moae", refuse=_triton_refuses),
}
_CUDA_ORDER = ("triton", "grouped", "dense_all", "reference")
# Tokens below which all experts at once come first on CUDA; 0 until `s4d bench moae` has found the crossover on a GPU.
_CUDA_SMALL = 0
# On a CPU: fewer tokens, and less tokens x width^2, than this. The second is where the costs of 400 and 1,600 tokens of
# width 768 in the same results, drawn as lines, cross: some 230 tokens.
_CPU_SMALL, _CPU_SMALL_WORK = 1024, 2**27
_MANY_EXPERTS = 256


def candidates(
    *, device: str, dtype: torch.dtype, tokens: int, width: int, num_experts: int, top_k: int
) -> tuple[dict[str, Backend], dict[str, object]]:
    """Rows for such a call in order of preference, and the facts that they may refuse."""
    # In small calls all experts at once win, by doing little rather than choosing what to do.
    if device == "cuda":
        small, table = tokens < _CUDA_SMALL, {name: BACKENDS[name] for name in _CUDA_ORDER}
    else:
        few_chosen = num_experts >= 4 * top_k
        few = tokens < _CPU_SMALL and tokens * width**2 < _CPU_SMALL_WORK
        small = dtype.itemsize == 2 and (few or (not few_chosen and width < 512))
        table = BACKENDS
    facts = {"device": device, "dtype": dtype, "small": small}
    return (
        {"dense_all": BACKENDS["dense_all"], **table} if small else table,
        {**facts, "many_experts": True} if num_experts > _MANY_EXPERTS else facts,
    )


def _check_call(x: Tensor, router: Router, experts: Experts, request: MoAERequest) -> None:
    if x.ndim != 2:
        raise ValueError(f"x: expected (T, D), got {tuple(x.shape)}")
    num_experts, _, width = experts.fc1_weight.shape
    if x.shape[1] != width or router.weight.shape != (num_experts, width):
        raise ValueError(
            f"x, router, experts: expected one width and one number of experts, got x {tuple(x.shape)}, "
            f"router {tuple(router.weight.shape)}, fc1 {tuple(experts.fc1_weight.shape)}"
        )
    if not 1 <= request.top_k <= num_experts:
        raise ValueError(f"top_k: expected 1 to {num_experts}, got {request.top_k}")
    if experts.fc1_weight.dtype != x.dtype or experts.fc2_weight.dtype != x.dtype:
        raise ValueError(f"experts: expected the dtype of x, {x.dtype}, got {experts.fc1_weight.dtype}")
    groups = request.groups
    if len(groups) < 2 or groups[0] != 0 or groups[-1] != x.shape[0] or list(groups) != sorted(groups):
        raise ValueError(f"groups: expected ascending token boundaries from 0 to {x.shape[0]}, got {groups}")
    if request.residual is not None and request.residual.shape != x.shape:
        raise ValueError(f"residual: expected {tuple(x.shape)}, got {tuple(request.residual.shape)}")
    _check_noise(x, router, request.noise)


def _check_noise(x: Tensor, router: Router, noise: Tensor | NoiseKey | None) -> None:
    if noise is None:
        return
    if router.noise_weight is None:
        raise ValueError("noise: expected a router with noise_weight and noise_bias, got none")
    expected = (x.shape[0], router.weight.shape[0])
    given = tuple(noise.shape) if isinstance(noise, Tensor) else (noise.token.shape[0], expected[1])
    if given != expected:
        raise ValueError(f"noise: expected {expected}, got {given}")


def moae(
    x: Tensor,
    router: Router,
    experts: Experts,
    *,
    top_k: int,
    capacity_factor: float | None = None,
    noise: Tensor | NoiseKey | None = None,
    groups: tuple[int, ...] | None = None,
    residual: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, MoAERecord]:
    """Gated sum (T, D) of the outputs of each token's ``top_k`` experts (plus ``residual``), and the routing record.

    ``x`` is (T, D). ``noise``: unit normals (T, E) or their key, times softplus of the router's noise map, added to the
    scores. ``capacity_factor``: each expert serves its first floor(T * k / E * factor) tokens, later ones get nothing
    from it and the other gates stay as they are; None serves all. ``groups``: host boundaries of token ranges, (0, T)
    by default, over which the balance statistics are summed. Raises ValueError on shapes or dtypes that do not fit
    and on a backend that cannot serve the call.
    """
    num_tokens = x.shape[0]
    request = MoAERequest(
        top_k=top_k,
        capacity=expert_capacity(num_tokens, top_k, experts.num_experts, capacity_factor),
        noise=noise,
        groups=(0, num_tokens) if groups is None else groups,
        residual=residual,
    )
    _check_call(x, router, experts, request)
    table, facts = candidates(
        device=x.device.type,
        dtype=x.dtype,
        tokens=num_tokens,
        width=x.shape[1],
        num_experts=experts.num_experts,
        top_k=top_k,
    )
    row = resolve("moae", table, backend, **facts)
    output, record = row.load()(x, router, experts, request)
    return output, record
