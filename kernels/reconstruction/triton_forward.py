"""Triton forward of the reconstruction loss: head, target, residual and sum of squares in one pass over the tokens.

M tokens, D width, V values of a tubelet (frame, row, column, channel). One program owns a block of tokens and walks
all V, so that the statistics of its targets are taken once and its hidden rows may stay on chip. The prediction and
the target are never written; the residual is, in the dtype of the operands, where a gradient will need it.

Traffic per token at D = 384, V = 1536 in half precision: pixels 1.5 KB and residual 3 KB here, the residual read twice
by the backward, 10.5 KB, and 2.25 KB of hidden rows. Keeping d(hidden) and d(weight) instead would save one read of the
residual, but d(weight) is a sum over all programs: it needs the residual in memory, or the prediction computed twice.
"""

# Triton reads annotations of kernel parameters itself.
# mypy: allow-untyped-defs
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import architecture, launch
from kernels.patch.triton_pixels import by_channel, first_bytes, place_tokens, value_offsets
from kernels.reconstruction.target import EPS
from kernels.reconstruction.tiles import select_residual

# Pixels are taken in levels of 0 to 255, which multiplies variances by the square of 255.
_LEVEL_EPS = tl.constexpr(EPS * 255.0**2)
_SUM_BLOCK = 1024


@triton.jit
def _channel_total(first, second, third, element, channel, PATCH: tl.constexpr):
    """Sum of one channel over lines cut in three parts of PATCH bytes; ``element`` numbers the bytes of a part."""
    total = tl.sum(tl.where(element % 3 == channel, first, 0), axis=1)
    total += tl.sum(tl.where((element + PATCH) % 3 == channel, second, 0), axis=1)
    return total + tl.sum(tl.where((element + 2 * PATCH) % 3 == channel, third, 0), axis=1)


@triton.jit
def _mean_and_rate(total, squares, POSITIONS: tl.constexpr, REPEATS: tl.constexpr):
    """Mean and reciprocal deviation in levels from exact integer sums."""
    spread = squares.to(tl.int64) * POSITIONS - total.to(tl.int64) * total
    variance = spread.to(tl.float32) * (REPEATS / (POSITIONS * (REPEATS * POSITIONS - 1)))
    return total.to(tl.float32) / POSITIONS, tl.div_rn(1.0, tl.sqrt_rn(variance + _LEVEL_EPS))


@triton.jit
def _statistics(
    pixels,
    base,
    wanted,
    height,
    width,
    PATCH: tl.constexpr,
    FRAMES: tl.constexpr,
    REPEATS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Mean and reciprocal deviation of the three channels of each tubelet.

    A line of 3 * PATCH bytes is read in three parts: a place in a part has the same channel in every line, so sums run
    down the lines and channels are told apart once, at the end.
    """
    element = tl.arange(0, WIDE)
    taken = wanted & (element < PATCH)[None, :]
    sum0 = tl.zeros([BLOCK_M, WIDE], dtype=tl.int32)
    sum1 = tl.zeros([BLOCK_M, WIDE], dtype=tl.int32)
    sum2 = tl.zeros([BLOCK_M, WIDE], dtype=tl.int32)
    square0 = tl.zeros([BLOCK_M, WIDE], dtype=tl.int32)
    square1 = tl.zeros([BLOCK_M, WIDE], dtype=tl.int32)
    square2 = tl.zeros([BLOCK_M, WIDE], dtype=tl.int32)
    for line in range(0, FRAMES * PATCH):
        place = pixels + base + ((line // PATCH * height + line % PATCH) * (width * 3) + element)[None, :]
        part0 = tl.load(place, mask=taken, other=0).to(tl.int32)
        part1 = tl.load(place + PATCH, mask=taken, other=0).to(tl.int32)
        part2 = tl.load(place + 2 * PATCH, mask=taken, other=0).to(tl.int32)
        sum0 += part0
        sum1 += part1
        sum2 += part2
        square0 += part0 * part0
        square1 += part1 * part1
        square2 += part2 * part2
    place = element[None, :]
    POSITIONS: tl.constexpr = FRAMES * PATCH * PATCH
    red = _channel_total(sum0, sum1, sum2, place, 0, PATCH)
    green = _channel_total(sum0, sum1, sum2, place, 1, PATCH)
    blue = _channel_total(sum0, sum1, sum2, place, 2, PATCH)
    reds = _channel_total(square0, square1, square2, place, 0, PATCH)
    greens = _channel_total(square0, square1, square2, place, 1, PATCH)
    blues = _channel_total(square0, square1, square2, place, 2, PATCH)
    red_mean, red_rate = _mean_and_rate(red, reds, POSITIONS, REPEATS)
    green_mean, green_rate = _mean_and_rate(green, greens, POSITIONS, REPEATS)
    blue_mean, blue_rate = _mean_and_rate(blue, blues, POSITIONS, REPEATS)
    return red_mean, green_mean, blue_mean, red_rate, green_rate, blue_rate


@triton.jit
def reconstruction_residual_kernel(
    hidden,
    weight,
    bias,
    pixels,
    indices,
    residual,
    statistics,
    partial,
    tokens,
    frames,
    height,
    width,
    D: tl.constexpr,
    PATCH: tl.constexpr,
    FRAMES: tl.constexpr,
    REPEATS: tl.constexpr,
    KEEP: tl.constexpr,
    RESIDENT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Residual (M, V) = ``hidden`` @ ``weight`` (V, D)^T + ``bias`` - target, and its sum of squares per program."""
    FRAME_VALUES: tl.constexpr = FRAMES * PATCH * PATCH * 3
    VALUES: tl.constexpr = FRAME_VALUES * REPEATS
    CHUNKS: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    is_token = (m < tokens)[:, None]
    token = tl.load(indices + m, mask=m < tokens, other=0)
    sample, frame, y, x = place_tokens(token, frames, height, width, PATCH, FRAMES)
    base = first_bytes(sample, frame, y, x, frames, height, width)[:, None]
    # fmt: off
    red_mean, green_mean, blue_mean, red_rate, green_rate, blue_rate = _statistics(
        pixels, base, is_token, height, width, PATCH, FRAMES, REPEATS, BLOCK_M, WIDE
    )
    # fmt: on
    # Through memory and back: the epilogue can then take them in the layout of its product, instead of converting
    # whole tiles. Each program reads what it wrote.
    mine = statistics + tl.program_id(0) * (6 * BLOCK_M) + tl.arange(0, BLOCK_M)
    tl.store(mine, red_mean)
    tl.store(mine + BLOCK_M, green_mean)
    tl.store(mine + 2 * BLOCK_M, blue_mean)
    tl.store(mine + 3 * BLOCK_M, red_rate)
    tl.store(mine + 4 * BLOCK_M, green_rate)
    tl.store(mine + 5 * BLOCK_M, blue_rate)
    tl.debug_barrier()
    rows = hidden + m.to(tl.int64)[:, None] * D
    step = tl.arange(0, BLOCK_D)
    chunks = ()
    if RESIDENT:
        for chunk in tl.static_range(CHUNKS):
            inner = chunk * BLOCK_D + step[None, :]
            chunks = chunks + (tl.load(rows + inner, mask=is_token & (inner < D), other=0.0),)  # type: ignore[assignment]  # noqa: RUF005
    total = 0.0
    for first in tl.range(0, VALUES, BLOCK_V):
        v = first + tl.arange(0, BLOCK_V)
        is_value = (v < VALUES)[None, :]
        prediction = tl.zeros([BLOCK_M, BLOCK_V], dtype=tl.float32)
        if RESIDENT:
            for chunk in tl.static_range(CHUNKS):
                d = chunk * BLOCK_D + step[:, None]
                kernel = tl.load(weight + v[None, :] * D + d, mask=is_value & (d < D), other=0.0)
                prediction = tl.dot(chunks[chunk], kernel, prediction)
        else:
            for chunk in range(0, CHUNKS):
                d = chunk * BLOCK_D + step
                row = tl.load(rows + d[None, :], mask=is_token & (d < D)[None, :], other=0.0)
                kernel = tl.load(weight + v[None, :] * D + d[:, None], mask=is_value & (d < D)[:, None], other=0.0)
                prediction = tl.dot(row, kernel, prediction, input_precision="ieee")
        prediction += tl.load(bias + v, mask=v < VALUES, other=0.0).to(tl.float32)[None, :]
        k = v % FRAME_VALUES
        wanted = is_token & is_value
        level = tl.load(pixels + base + value_offsets(k, height, width, PATCH)[None, :], mask=wanted, other=0)
        channel = (k % 3)[None, :]
        red, green, blue = tl.load(mine), tl.load(mine + BLOCK_M), tl.load(mine + 2 * BLOCK_M)
        mean = by_channel(channel, red[:, None], green[:, None], blue[:, None])
        red, green, blue = tl.load(mine + 3 * BLOCK_M), tl.load(mine + 4 * BLOCK_M), tl.load(mine + 5 * BLOCK_M)
        rate = by_channel(channel, red[:, None], green[:, None], blue[:, None])
        target = (level.to(tl.float32) - mean) * rate
        difference = tl.where(wanted, prediction - target, 0.0)
        total += tl.sum(difference * difference)
        if KEEP:
            place = residual + m.to(tl.int64)[:, None] * VALUES + v[None, :]
            tl.store(place, difference.to(residual.dtype.element_ty), mask=wanted)
    tl.store(partial + tl.program_id(0), total)


@triton.jit
def reconstruction_sum_kernel(partial, loss, programs, VALUES: tl.constexpr, BLOCK: tl.constexpr):
    """``loss`` = sum of ``partial`` (programs,) in order, over V; one program."""
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for first in range(0, programs, BLOCK):
        place = first + tl.arange(0, BLOCK)
        total += tl.load(partial + place, mask=place < programs, other=0.0)
    tl.store(loss, tl.sum(total) / VALUES)


def residual_and_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    pixels: Tensor,
    indices: Tensor,
    tubelet_size: int,
    *,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """Loss () float32 and the unscaled residual (M, V) in the dtype of ``hidden``, or (0, V) unless ``keep``."""
    tokens, dim = hidden.shape
    values = weight.shape[0]
    frames, height, width = pixels.shape[1:4]
    frames_per_token = 1 if frames == 1 else tubelet_size
    patch_size = round((values / (3 * tubelet_size)) ** 0.5)
    tile = select_residual(architecture(hidden.device), hidden.dtype, dim)
    programs = triton.cdiv(tokens, tile.block_m)
    residual = torch.empty(tokens if keep else 0, values, dtype=hidden.dtype, device=hidden.device)
    statistics = torch.empty(programs, 6, tile.block_m, dtype=torch.float32, device=hidden.device)
    partial = torch.empty(programs, dtype=torch.float32, device=hidden.device)
    loss = torch.empty((), dtype=torch.float32, device=hidden.device)
    launch(
        reconstruction_residual_kernel,
        (programs,),
        hidden.contiguous(),
        weight.contiguous(),
        bias.contiguous(),
        pixels.contiguous(),
        indices.contiguous(),
        residual,
        statistics,
        partial,
        tokens,
        frames,
        height,
        width,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        D=dim,
        PATCH=patch_size,
        FRAMES=frames_per_token,
        REPEATS=tubelet_size // frames_per_token,
        KEEP=keep,
        RESIDENT=tile.resident,
        BLOCK_M=tile.block_m,
        BLOCK_V=tile.block_v,
        BLOCK_D=tile.block_d,
        WIDE=triton.next_power_of_2(patch_size),
    )
    launch(reconstruction_sum_kernel, (1,), partial, loss, programs, num_warps=4, VALUES=values, BLOCK=_SUM_BLOCK)
    return loss, residual
