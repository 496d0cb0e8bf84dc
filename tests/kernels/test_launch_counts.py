"""What the Triton backends start and keep, at the sizes of ViT-B: launches, bytes for backward, scratch, programs.

Counted without a device, in fp16, which takes the bytes of bf16.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from launch_counting import counting, saved_bytes
from torch import Tensor

from kernels.attention import varlen_attention
from kernels.attention.tile_map import program_bound, tile_map_of_layout
from kernels.moae import Experts, Router, moae
from kernels.patch import Erase, Mix, embed_visible
from kernels.philox import NoiseKey
from kernels.reconstruction import masked_loss
from kernels.varlen import Layout, cu_seqlens_from_layout

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="counts the launches of the interpreter's choices")

HALF = torch.float16
WIDTH, EXPERTS, HIDDEN, TOP_K = 768, 8, 192, 2


def leaf(*size: int, dtype: torch.dtype = HALF) -> Tensor:
    return torch.empty(*size, dtype=dtype, requires_grad=True)


def moae_leaves(tokens: int) -> tuple[Tensor, Router, Experts, list[Tensor]]:
    x = leaf(tokens, WIDTH)
    full = torch.float32
    router = Router(
        weight=leaf(EXPERTS, WIDTH, dtype=full),
        bias=leaf(EXPERTS, dtype=full),
        noise_weight=leaf(EXPERTS, WIDTH, dtype=full),
        noise_bias=leaf(EXPERTS, dtype=full),
    )
    experts = Experts(
        fc1_weight=leaf(EXPERTS, HIDDEN, WIDTH),
        fc1_bias=leaf(EXPERTS, HIDDEN),
        fc2_weight=leaf(EXPERTS, WIDTH, HIDDEN),
        fc2_bias=leaf(EXPERTS, WIDTH),
    )
    maps = [router.weight, router.bias, router.noise_weight, router.noise_bias]
    stacked = [experts.fc1_weight, experts.fc1_bias, experts.fc2_weight, experts.fc2_bias]
    return x, router, experts, [x, *(tensor for tensor in maps if tensor is not None), *stacked]


@pytest.mark.parametrize("capacity_factor", [None, 1.0])
@pytest.mark.parametrize("tokens", [1600, 12800])
def test_moae(tokens: int, capacity_factor: float | None) -> None:
    x, router, experts, leaves = moae_leaves(tokens)
    residual = leaf(tokens, WIDTH)
    counters = torch.empty(tokens, dtype=torch.int64)
    noise = NoiseKey.of(seed=1, epoch=0, layer=2, sample_key=counters, token=counters.clone())
    options = {"groups": (0, tokens // 2, tokens), "capacity_factor": capacity_factor, "noise": noise}
    with counting() as started:
        with saved_bytes(exclude=[*leaves, counters]) as saved:
            output, record = moae(x, router, experts, top_k=TOP_K, residual=residual, backend="triton", **options)
        assert started.total <= 4, started.describe()
        assert started.workspace <= 4096 * tokens
        assert sum(saved.values()) <= 1024 * tokens, saved
        waits = started.waits
        started.restart()
        upstream = [
            torch.empty_like(output),
            torch.empty_like(record.prob_sums),
            torch.empty_like(record.router_logits),
        ]
        gradients = torch.autograd.grad(
            [output, record.prob_sums, record.router_logits], [*leaves, residual], upstream, retain_graph=True
        )
        assert started.total <= 5, started.describe()
        assert started.workspace <= 4096 * tokens
    assert not waits | started.waits
    assert len(gradients) == len(leaves) + 1


@pytest.mark.parametrize("experts", [1, 4, 8, 64])
@pytest.mark.parametrize("tokens", [1, 31, 1600, 12800])
def test_programs_of_the_experts(tokens: int, experts: int) -> None:
    """However the slots are shared: ceil(kT / rows) + E - 1 programs at most."""
    x = leaf(tokens, 64)
    router = Router(weight=leaf(experts, 64), bias=leaf(experts))
    mlp = Experts(
        fc1_weight=leaf(experts, 32, 64),
        fc1_bias=leaf(experts, 32),
        fc2_weight=leaf(experts, 64, 32),
        fc2_bias=leaf(experts, 64),
    )
    top_k = min(2, experts)
    with counting() as started:
        output, _ = moae(x, router, mlp, top_k=top_k, backend="triton")
        torch.autograd.grad(output, x, torch.empty_like(output))
    tiled = [launch for launch in started.launches if "BLOCK_ROWS" in launch.constants]
    assert len(tiled) == 2, started.kernels
    for launch in tiled:
        rows = launch.constants["BLOCK_ROWS"]
        assert launch.grid[0] <= -(-top_k * tokens // rows) + experts - 1


def tiles_of(lengths: Sequence[int], rows: int) -> int:
    """Tiles that some rows of tokens, ``lengths`` of each group, are cut into when no tile spans two groups."""
    return sum(-(-length // rows) for length in lengths)


@pytest.mark.parametrize(
    "shares",
    [[3200] + [0] * 7, [1] * 7 + [3193], [129] * 7 + [2297], [400] * 8, [1, 0, 1, 0, 1, 0, 1, 3196], [0] * 8],
)
@pytest.mark.parametrize("rows", [32, 64, 128])
def test_the_bound_holds_for_any_share(rows: int, shares: list[int]) -> None:
    assert tiles_of(shares, rows) <= -(-sum(shares) // rows) + len(shares) - 1


@pytest.mark.parametrize("head_dim", [64, 80])
@pytest.mark.parametrize(
    ("layout", "backward"),
    [
        (((192, 10), (192, 40)), 1),
        (((7, 0), (3, 13)), 1),
        (((16, 100), (4, 800)), 2),
        (((16, 10), (1, 800)), 2),
    ],
)
def test_attention(layout: Layout, backward: int, head_dim: int) -> None:
    tokens = sum(count * length for count, length in layout)
    qkv = leaf(tokens, 3, 12, head_dim)
    cu_seqlens = cu_seqlens_from_layout(layout)
    longest = max(length for _, length in layout)
    with counting() as started:
        with saved_bytes(exclude=[qkv, cu_seqlens]) as saved:
            output = varlen_attention(qkv, cu_seqlens, longest, layout=layout, backend="triton")
        assert started.total <= 1, started.describe()
        waits = started.waits
        started.restart()
        torch.autograd.grad(output, qkv, torch.empty_like(output))
        assert started.total <= backward, started.describe()
    assert not waits | started.waits
    if longest <= 64:
        map_bytes = 4 * tokens + 16 * program_bound(sum(count for count, _ in layout), tokens, 32)
        assert sum(saved.values()) <= map_bytes, saved


ADVERSARIAL: list[Layout] = [
    ((5000, 1),),
    ((1, 128), (5000, 0)),
    ((300, 33),),
    ((300, 65),),
    ((100, 1), (100, 64)) * 3,
    tuple((1, length) for length in (64, 1) * 20),
    tuple((1, length) for length in (65, 1, 63) * 15),
    tuple((1, length) for length in (129, 1, 127, 0) * 9),
    tuple((1, length) for length in (1, 800, 2, 127, 128, 31, 33, 97) * 4),
    ((1, 4001), (1, 1), (1, 4001)),
]


@pytest.mark.parametrize("rows", [16, 32, 64, 128])
@pytest.mark.parametrize("layout", ADVERSARIAL)
def test_tiles_of_attention(layout: Layout, rows: int) -> None:
    """At most min(B + T // rows, 3 * ceil(T / rows) + 1) tiles; each token in exactly one."""
    tokens, batch = sum(count * length for count, length in layout), sum(count for count, _ in layout)
    bound = min(batch + tokens // rows, 3 * -(-tokens // rows) + 1)
    assert program_bound(batch, tokens, rows) <= bound
    found = tile_map_of_layout(layout, rows, torch.device("cpu")).tiles
    assert found.shape[0] <= bound
    covered = torch.zeros(tokens, dtype=torch.int64)
    for first, _, end, *_ in found.tolist():
        covered[first : min(first + rows, end)] += 1
    assert torch.equal(covered, torch.ones_like(covered))


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("frames", [1, 16])
def test_patch(frames: int, augmented: bool) -> None:
    """One kernel, after the weight is laid out by tubelet values, and for a still image summed over time."""
    samples, side = 4, 32
    pixels = torch.empty(samples, frames, side, side, 3, dtype=torch.uint8)
    weight, bias = leaf(WIDTH, 3, 2, 16, 16), leaf(WIDTH)
    box = torch.empty(samples, 4, dtype=torch.int32)
    counters = torch.empty(samples, dtype=torch.int64)
    mix = Mix(partner=counters, lam=torch.empty(samples), box=box) if augmented else None
    erase = Erase(box=box, seed=counters, noise=True) if augmented else None
    with counting() as started:
        with saved_bytes(exclude=[pixels, weight, bias]) as saved:
            output = embed_visible(
                pixels,
                torch.empty(12, dtype=torch.int64),
                weight,
                bias,
                torch.empty(3),
                torch.empty(3),
                mix=mix,
                erase=erase,
                backend="triton",
            )
        assert started.total <= (3 if frames == 1 else 2), started.describe()
        waits = started.waits
        started.restart()
        torch.autograd.grad(output, [weight, bias], torch.empty_like(output))
        assert started.total <= 2, started.describe()
    assert not waits | started.waits
    assert sum(saved.values()) < 12 * 8 + 1024


@pytest.mark.parametrize("tokens", [96, 4000])
def test_reconstruction(tokens: int) -> None:
    """One residual (M, V) is kept beside the inputs; what is kept without a gradient is nothing."""
    pixels = torch.empty(2, 16, 160, 160, 3, dtype=torch.uint8)
    hidden, weight, bias = leaf(tokens, 384), leaf(1536, 384), leaf(1536)
    indices = torch.empty(tokens, dtype=torch.int64)
    with counting() as started:
        with saved_bytes(exclude=[hidden, weight, bias]) as saved:
            total, _ = masked_loss(hidden, weight, bias, pixels, indices, backend="triton")
        assert started.total <= 2, started.describe()
        assert sum(saved.values()) <= 2 * tokens * 1536, saved
        waits = started.waits
        started.restart()
        torch.autograd.grad(total, [hidden, weight, bias], torch.empty(()))
        assert started.total <= 3, started.describe()
        waits |= started.waits
        with torch.no_grad():
            kept_before = started.live
            total, _ = masked_loss(hidden, weight, bias, pixels, indices, backend="triton")
        assert started.live - kept_before <= 1024
    assert not waits | started.waits
