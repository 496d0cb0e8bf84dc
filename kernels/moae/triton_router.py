"""Router forward in one launch: both projections, noise, choice, gates, and the balance statistics of each block.

A program serves one block of tokens, which lies in one group. Letters as in records.py; P blocks.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import architecture, launch
from kernels.moae.records import Router
from kernels.moae.tiles import router_tile
from kernels.moae.triton_parts import times_wide
from kernels.moae.triton_plan import Blocks, block_start, group_end

NO_NOISE, NOISE_TENSOR, NOISE_KEY = 0, 1, 2
TRITON_TYPE = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def softplus_and_slope(raw):
    """log(1 + exp(raw)) and its derivative, float32, without loss for large or very negative values."""
    small = tl.exp(-tl.abs(raw))
    grown = 1.0 + small
    # log(grown) / (grown - 1) cancels the rounding of 1 + small.
    log1p = tl.where(grown == 1.0, small, tl.log(grown) * (small / tl.where(grown == 1.0, 1.0, grown - 1.0)))
    return tl.maximum(raw, 0.0) + log1p, tl.where(raw >= 0, 1.0, small) / grown


@triton.jit
def box_muller(radius_words, angle_words):
    """Two independent unit normals of each pair of words, the float32 twin of ``kernels.philox.normal``."""
    # 2^-24 times a number up to 2^24 is exact.
    radius = tl.sqrt_rn(-2.0 * tl.log(((radius_words >> 8).to(tl.int32) + 1).to(tl.float32) * 5.9604644775390625e-8))
    # A turn is 2^24 steps: the quarter and the steps past it, at most an eighth of a turn, are exact.
    steps = (angle_words >> 8).to(tl.int32)
    quarter = (steps + (1 << 21)) >> 22
    t = (steps - (quarter << 22)).to(tl.float32) * 3.7450702829238413e-7
    s = t * t
    sine = t + t * s * (-1.6666667e-1 + s * (8.3333333e-3 + s * (-1.9841270e-4 + s * 2.7557319e-6)))
    cosine = 1.0 + s * (-0.5 + s * (4.1666667e-2 + s * (-1.3888889e-3 + s * (2.4801587e-5 - s * 2.7557319e-7))))
    odd = (quarter & 1) == 1
    swapped_cosine, swapped_sine = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    cosine = tl.where(((quarter + 1) & 2) == 2, -swapped_cosine, swapped_cosine)
    sine = tl.where((quarter & 2) == 2, -swapped_sine, swapped_sine)
    return radius * cosine, radius * sine


@triton.jit
def unit_normals(sample_key, token_index, t, inside, philox_key, EP: tl.constexpr):
    """Noise (len(t), EP) of the tokens ``t``; the counter layout is that of ``kernels.philox``."""
    sample = tl.load(sample_key + t, mask=inside, other=0)[:, None]
    token = tl.load(token_index + t, mask=inside, other=0).to(tl.int32)[:, None]
    group = tl.arange(0, EP // 4)[None, :]
    zero = tl.zeros_like(group) + tl.zeros_like(token)
    w0, w1, w2, w3 = tl.philox(
        tl.load(philox_key), sample.to(tl.int32) + zero, (sample >> 32).to(tl.int32) + zero, token + zero, group + zero
    )
    n0, n1 = box_muller(w0, w1)
    n2, n3 = box_muller(w2, w3)
    return tl.join(tl.join(n0, n2), tl.join(n1, n3)).reshape(t.shape[0], EP)


@triton.jit
def stacked_columns(weight, noise_weight, n, d, D, E, EP: tl.constexpr, NOISY: tl.constexpr):
    """Rows ``n`` and columns ``d`` of the score weights over the noise weights (each padded to EP rows), float32."""
    e = n % EP
    inside = (e < E)[:, None] & (d < D)[None, :]
    offset = e[:, None] * D + d[None, :]
    values = tl.load(weight + offset, mask=inside & (n < EP)[:, None], other=0.0).to(tl.float32)
    if NOISY:
        values += tl.load(noise_weight + offset, mask=inside & (n >= EP)[:, None], other=0.0).to(tl.float32)
    return values


@triton.jit
def projections(
    x, weight, bias, noise_weight, noise_bias, t, inside, D: tl.constexpr, E: tl.constexpr, EP: tl.constexpr,
    NC: tl.constexpr, BD: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """x W^T + b of the tokens ``t`` for both maps, (len(t), NC)."""
    n = tl.arange(0, NC)
    row = x + t.to(tl.int64)[:, None] * D
    total = tl.zeros((t.shape[0], NC), dtype=tl.float32)
    for start in range(0, D, BD):
        d = start + tl.arange(0, BD)
        values = tl.load(row + d[None, :], mask=inside[:, None] & (d < D)[None, :], other=0.0)
        columns = stacked_columns(weight, noise_weight, n, d, D, E, EP, NC > EP)
        total += times_wide(values, tl.trans(columns), HALF)
    constant = tl.load(bias + n, mask=n < E, other=0.0).to(tl.float32)
    if NC > EP:
        constant += tl.load(noise_bias + n - EP, mask=(n >= EP) & (n < EP + E), other=0.0).to(tl.float32)
    return total + constant[None, :]


@triton.jit
def choose(score, gates, ids, t, inside, E: tl.constexpr, K: tl.constexpr, EP: tl.constexpr, KP: tl.constexpr):
    """Store the K best of each row of ``score``, equal ones by the lower column, and their gates; 1 where chosen."""
    e = tl.arange(0, EP)[None, :]
    j = tl.arange(0, KP)[None, :]
    # NaN counts as the highest, as in torch's sort.
    order = tl.where(score != score, float("inf"), score)
    chosen = tl.zeros((t.shape[0], EP), dtype=tl.int32)
    weights = tl.zeros((t.shape[0], KP), dtype=tl.float32)
    best_id = tl.zeros((t.shape[0], KP), dtype=tl.int32)
    top = tl.zeros((t.shape[0],), dtype=tl.float32)
    for choice in tl.static_range(K):
        free = (e < E) & inside[:, None] & (chosen == 0)
        best = tl.max(tl.where(free, order, float("-inf")), 1)
        column = tl.min(tl.where(free & (order == best[:, None]), e, EP), 1)
        taken = e == column[:, None]
        value = tl.sum(tl.where(taken, score, 0.0), 1)
        if choice == 0:
            top = value
        weights = tl.where(j == choice, tl.exp(value - top)[:, None], weights)
        best_id = tl.where(j == choice, column[:, None], best_id)
        chosen += taken.to(tl.int32)
    place, stored = t[:, None] * K + j, inside[:, None] & (j < K)
    tl.store(gates + place, weights / tl.sum(weights, 1)[:, None], mask=stored)
    tl.store(ids + place, best_id.to(tl.int64), mask=stored)
    return chosen


@triton.jit(do_not_specialize=["T", "bound1", "bound2", "bound3"])
def router_forward_kernel(
    x, weight, bias, noise_weight, noise_bias, noise, philox_key, sample_key, token_index,
    logits, slope, gates, ids, block_counts, block_probs,
    T, bound1, bound2, bound3,
    D: tl.constexpr, E: tl.constexpr, K: tl.constexpr, EP: tl.constexpr, KP: tl.constexpr, NC: tl.constexpr,
    NOISE: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Logits, slope (d logit / d noise score), gates and ids of one block of tokens; its counts and softmax sums."""
    block = tl.program_id(0)
    first = block_start(block, T, bound1, bound2, bound3, BT)
    t = first + tl.arange(0, BT)
    inside = t < tl.minimum(first + BT, group_end(first, T, bound1, bound2, bound3))
    raw = projections(x, weight, bias, noise_weight, noise_bias, t, inside, D, E, EP, NC, BD, HALF)
    e = tl.arange(0, EP)[None, :]
    known = inside[:, None] & (e < E)
    place = t[:, None] * E + e
    if NOISE:
        score, noise_score = raw.reshape(BT, 2, EP).permute(0, 2, 1).split()
        spread, gradient = softplus_and_slope(noise_score)
        if NOISE == 1:
            normal = tl.load(noise + place, mask=known, other=0.0).to(tl.float32)
        else:
            normal = unit_normals(sample_key, token_index, t, inside, philox_key, EP)
        score += normal * spread
        tl.store(slope + place, normal * gradient, mask=known)
    else:
        score = raw
    tl.store(logits + place, score, mask=known)
    chosen = choose(score, gates, ids, t, inside, E, K, EP, KP)
    e = tl.arange(0, EP)
    tl.store(block_counts + block * E + e, tl.sum(chosen, 0), mask=e < E)
    score = tl.where(known, score, float("-inf"))
    top = tl.where(inside, tl.max(score, 1), 0.0)
    weights = tl.exp(score - top[:, None])
    total = tl.where(inside, tl.sum(weights, 1), 1.0)
    tl.store(block_probs + block * E + e, tl.sum(weights / total[:, None], 0), mask=e < E)


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """Unit normals as a tensor (T, E), or as counters (T,) with ``key`` (1,); neither for a router without noise."""

    values: Tensor | None = None
    key: Tensor | None = None
    sample_key: Tensor | None = None
    token: Tensor | None = None

    @property
    def kind(self) -> int:
        """NO_NOISE, NOISE_TENSOR or NOISE_KEY."""
        if self.values is not None:
            return NOISE_TENSOR
        return NO_NOISE if self.sample_key is None else NOISE_KEY


@dataclass(frozen=True, kw_only=True, slots=True)
class Routed:
    """What the router kernel writes: (T, E), (T, E) or empty without noise, (T, k), (T, k), (P, E), (P, E)."""

    logits: Tensor
    slope: Tensor
    gates: Tensor
    ids: Tensor
    block_counts: Tensor
    block_probs: Tensor


def padded_experts(num_experts: int, noisy: bool) -> tuple[int, int]:
    """Columns of one map, and of all the maps that run: powers of two, 16 or more in all."""
    columns = max(8 if noisy else 16, triton.next_power_of_2(num_experts))
    return columns, 2 * columns if noisy else columns


def router_forward(x: Tensor, router: Router, noise: Noise, top_k: int, blocks: Blocks) -> Routed:
    """Route the tokens ``x`` (T, D), contiguous like the router's tensors, in ``blocks``."""
    (num_tokens, width), num_experts = x.shape, router.weight.shape[0]
    columns, all_columns = padded_experts(num_experts, noise.kind != NO_NOISE)
    tile = router_tile(architecture(x.device), x.dtype, all_columns)
    floats = torch.float32
    routed = Routed(
        logits=x.new_empty(num_tokens, num_experts, dtype=floats),
        slope=x.new_empty(num_tokens if noise.kind else 0, num_experts, dtype=floats),
        gates=x.new_empty(num_tokens, top_k, dtype=floats),
        ids=x.new_empty(num_tokens, top_k, dtype=torch.int64),
        block_counts=x.new_empty(blocks.count, num_experts, dtype=torch.int32),
        block_probs=x.new_empty(blocks.count, num_experts, dtype=floats),
    )
    launch(
        router_forward_kernel,
        (blocks.count,),
        x,
        router.weight,
        router.bias,
        *(
            part if part is not None and noise.kind else router.weight
            for part in (router.noise_weight, router.noise_bias)
        ),
        *(part if part is not None else x for part in (noise.values, noise.key, noise.sample_key, noise.token)),
        *(routed.logits, routed.slope, routed.gates, routed.ids, routed.block_counts, routed.block_probs),
        num_tokens,
        *blocks.bounds,
        num_warps=tile.warps,
        num_stages=tile.stages,
        D=width,
        E=num_experts,
        K=top_k,
        EP=columns,
        KP=triton.next_power_of_2(top_k),
        NC=all_columns,
        NOISE=noise.kind,
        BT=blocks.tokens,
        BD=tile.columns,
        HALF=TRITON_TYPE[x.dtype] if tile.tensor_cores else tl.float32,
    )
    return routed
