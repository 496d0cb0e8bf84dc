"""Backward of the combine and of the router: gradients of the tokens, and of the router's weights in a fixed order.

A program of the first launch owns a run of columns and each P-th block of tokens. It adds up each token's rows
of the experts' gradient and the router's own part, and keeps its share of the weight gradients in registers; the second
launch sums the shares. Letters as in records.py; P programs over tokens, N padded columns of both maps.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import architecture, launch
from kernels.moae.plan import RoutingPlan
from kernels.moae.records import Router
from kernels.moae.tiles import router_backward_tile
from kernels.moae.triton_parts import times_wide, wide_times_wide
from kernels.moae.triton_router import TRITON_TYPE, padded_experts, stacked_columns

# Shares of the weight gradients, whatever the device, so that the order of the sum never changes.
_PROGRAMS = 44
_REDUCED_COLUMNS = 128


@triton.jit
def choice_gradient(
    d_gates, grad_gates, gates, ids, t, inside, K: tl.constexpr, EP: tl.constexpr, GATES: tl.constexpr,
    EXPERTS: tl.constexpr,
):  # fmt: skip
    """Gradient (len(t), EP) of the scores through the softmax over the chosen."""
    e = tl.arange(0, EP)[None, :]
    weighted = tl.zeros((t.shape[0],), dtype=tl.float32)
    for choice in tl.static_range(K):
        gradient = tl.zeros((t.shape[0],), dtype=tl.float32)
        if EXPERTS:
            gradient += tl.load(d_gates + t * K + choice, mask=inside, other=0.0)
        if GATES:
            gradient += tl.load(grad_gates + t * K + choice, mask=inside, other=0.0)
        weighted += gradient * tl.load(gates + t * K + choice, mask=inside, other=0.0)
    result = tl.zeros((t.shape[0], EP), dtype=tl.float32)
    for choice in tl.static_range(K):
        gradient = tl.zeros((t.shape[0],), dtype=tl.float32)
        if EXPERTS:
            gradient += tl.load(d_gates + t * K + choice, mask=inside, other=0.0)
        if GATES:
            gradient += tl.load(grad_gates + t * K + choice, mask=inside, other=0.0)
        gradient = (gradient - weighted) * tl.load(gates + t * K + choice, mask=inside, other=0.0)
        expert = tl.load(ids + t * K + choice, mask=inside, other=EP).to(tl.int32)
        result += tl.where(expert[:, None] == e, gradient[:, None], 0.0)
    return result


@triton.jit
def balance_gradient(
    logits, grad_prob_sums, t, inside, bound1, bound2, bound3, E: tl.constexpr, EP: tl.constexpr
):  # fmt: skip
    """Gradient (len(t), EP) of the scores through the softmax sums of the token's group."""
    e = tl.arange(0, EP)[None, :]
    known = inside[:, None] & (e < E)
    score = tl.load(logits + t[:, None] * E + e, mask=known, other=float("-inf"))
    top = tl.where(inside, tl.max(score, 1), 0.0)
    weights = tl.exp(score - top[:, None])
    probs = weights / tl.where(inside, tl.sum(weights, 1), 1.0)[:, None]
    group = (t >= bound1).to(tl.int32) + (t >= bound2).to(tl.int32) + (t >= bound3).to(tl.int32)
    gradient = tl.load(grad_prob_sums + group[:, None] * E + e, mask=known, other=0.0)
    return probs * (gradient - tl.sum(probs * gradient, 1)[:, None])


@triton.jit(do_not_specialize=["T", "bound1", "bound2", "bound3"])
def router_backward_kernel(
    x, weight, noise_weight, dx_rows, slots, kept, d_gates, grad_gates, grad_logits, grad_prob_sums,
    logits, slope, gates, ids, dx, partials,
    T, bound1, bound2, bound3,
    D: tl.constexpr, E: tl.constexpr, K: tl.constexpr, EP: tl.constexpr, NC: tl.constexpr,
    EXPERTS: tl.constexpr, GATES: tl.constexpr, LOGITS: tl.constexpr, PROBS: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """dx (T, D) of one run of columns, and partials: shares (P, N, D) of the weights', then (P, N) of the biases'."""
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    n = tl.arange(0, NC)
    e = tl.arange(0, EP)[None, :]
    columns = stacked_columns(weight, noise_weight, n, d, D, E, EP, NC > EP)
    d_weight = tl.zeros((BD, NC), dtype=tl.float32)
    d_bias = tl.zeros((NC,), dtype=tl.float64)
    for block in range(program, tl.cdiv(T, BT), programs):
        t = block * BT + tl.arange(0, BT)
        inside = t < T
        known = inside[:, None] & (e < E)
        d_score = choice_gradient(d_gates, grad_gates, gates, ids, t, inside, K, EP, GATES, EXPERTS)
        if LOGITS:
            d_score += tl.load(grad_logits + t[:, None] * E + e, mask=known, other=0.0)
        if PROBS:
            d_score += balance_gradient(logits, grad_prob_sums, t, inside, bound1, bound2, bound3, E, EP)
        if NC > EP:
            d_noise = d_score * tl.load(slope + t[:, None] * E + e, mask=known, other=0.0)
            d_score = tl.join(d_score, d_noise).permute(0, 2, 1).reshape(BT, NC)
        place = t.to(tl.int64)[:, None] * D + d[None, :]
        stored = inside[:, None] & (d < D)[None, :]
        total = wide_times_wide(d_score, columns, HALF)
        if EXPERTS:
            for choice in tl.static_range(K):
                slot = tl.load(slots + t * K + choice, mask=inside, other=0)
                served = tl.load(kept + t * K + choice, mask=inside, other=0) != 0
                served = served[:, None] & stored
                total += tl.load(dx_rows + slot[:, None] * D + d[None, :], mask=served, other=0.0).to(tl.float32)
        tl.store(dx + place, total.to(dx.dtype.element_ty), mask=stored)
        values = tl.load(x + place, mask=stored, other=0.0)
        d_weight += times_wide(tl.trans(values), d_score, HALF)
        d_bias += tl.sum(d_score.to(tl.float64), 0)
    row = (program * NC + n).to(tl.int64) * D
    tl.store(partials + row[None, :] + d[:, None], d_weight, mask=(d < D)[:, None])
    if tl.program_id(1) == 0:
        biases = partials + tl.cast(programs, tl.int64) * NC * D
        tl.store(biases + program * NC + n, d_bias.to(tl.float32))


@triton.jit(do_not_specialize=["P"])
def router_weights_kernel(
    partials, d_weight, d_bias, d_noise_weight, d_noise_bias, P,
    D: tl.constexpr, E: tl.constexpr, EP: tl.constexpr, NC: tl.constexpr, BP: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Sum of the partials of one expert and run of columns, for both maps; the bias counts as column D."""
    e = tl.program_id(0)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    for half in tl.static_range(NC // EP):
        total = tl.zeros((BP, BD), dtype=tl.float32)
        for start in range(0, P, BP):
            p = start + tl.arange(0, BP)
            row = (p[:, None] * NC + half * EP + e).to(tl.int64)
            place = tl.where(d[None, :] < D, row * D + d[None, :], tl.cast(P, tl.int64) * NC * D + row)
            total += tl.load(partials + place, mask=(p < P)[:, None] & (d <= D)[None, :], other=0.0)
        result = tl.sum(total, 0)
        if half == 0:
            tl.store(d_weight + e * D + d, result.to(d_weight.dtype.element_ty), mask=d < D)
            tl.store(d_bias + e + d - D, result.to(d_bias.dtype.element_ty), mask=d == D)
        else:
            tl.store(d_noise_weight + e * D + d, result.to(d_noise_weight.dtype.element_ty), mask=d < D)
            tl.store(d_noise_bias + e + d - D, result.to(d_noise_bias.dtype.element_ty), mask=d == D)


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterGradients:
    """What arrives from the experts' rows and gates, and at the public outputs; None where nothing does."""

    dx_rows: Tensor | None
    d_gates: Tensor | None
    grad_gates: Tensor | None
    grad_logits: Tensor | None
    grad_prob_sums: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterState:
    """What the forward kept: logits (T, E), gates (T, k), the plan, the groups' ends; slope (T, E) if ``noisy``."""

    logits: Tensor
    slope: Tensor
    noisy: bool
    gates: Tensor
    plan: RoutingPlan
    bounds: tuple[int, int, int]


def router_backward(
    x: Tensor, router: Router, state: RouterState, gradients: RouterGradients
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of x (T, D), weight, bias, noise weight and noise bias; the last two None without noise."""
    (num_tokens, width), num_experts, top_k = x.shape, router.weight.shape[0], state.gates.shape[1]
    noisy = state.noisy
    columns, all_columns = padded_experts(num_experts, noisy)
    tile = router_backward_tile(architecture(x.device), x.dtype, all_columns)
    programs = min(triton.cdiv(num_tokens, tile.tokens), _PROGRAMS)
    dx = torch.empty_like(x)
    partials = x.new_empty(programs * all_columns * (width + 1), dtype=torch.float32)
    arriving = (gradients.d_gates, gradients.grad_gates, gradients.grad_logits, gradients.grad_prob_sums)
    launch(
        router_backward_kernel,
        (programs, triton.cdiv(width, tile.columns)),
        *(x, router.weight, router.noise_weight if noisy else router.weight),
        x if gradients.dx_rows is None else gradients.dx_rows,
        *(state.plan.slots, state.plan.kept),
        *(state.logits if gradient is None else gradient for gradient in arriving),
        *(state.logits, state.slope, state.gates, state.plan.topk_expert_ids, dx, partials),
        num_tokens,
        *state.bounds,
        num_warps=tile.warps,
        num_stages=tile.stages,
        D=width,
        E=num_experts,
        K=top_k,
        EP=columns,
        NC=all_columns,
        EXPERTS=gradients.dx_rows is not None,
        GATES=gradients.grad_gates is not None,
        LOGITS=gradients.grad_logits is not None,
        PROBS=gradients.grad_prob_sums is not None,
        BT=tile.tokens,
        BD=tile.columns,
        HALF=TRITON_TYPE[x.dtype] if tile.tensor_cores else tl.float32,
    )
    results = [torch.empty_like(router.weight), torch.empty_like(router.bias)]
    if noisy and router.noise_weight is not None and router.noise_bias is not None:
        results += [torch.empty_like(router.noise_weight), torch.empty_like(router.noise_bias)]
    launch(
        router_weights_kernel,
        (num_experts, triton.cdiv(width + 1, _REDUCED_COLUMNS)),
        partials,
        *(results if len(results) == 4 else results * 2),
        programs,
        num_warps=4,
        num_stages=2,
        D=width,
        E=num_experts,
        EP=columns,
        NC=all_columns,
        BP=8,
        BD=_REDUCED_COLUMNS,
    )
    d_weight, d_bias, d_noise_weight, d_noise_bias = results if len(results) == 4 else [*results, None, None]
    assert d_weight is not None and d_bias is not None
    return dx, d_weight, d_bias, d_noise_weight, d_noise_bias
