"""Triton kernels of the patch embedding and their launchers: a gathered GEMM from uint8 pixels, and its gradients.

M wanted tokens, D columns, K values of a tubelet (frame, row, column, channel). No float pixel is ever written: the
weight gradient gathers and normalises again. It is summed over tokens in splits of a fixed size, and the splits in
order, so that it repeats to the bit.
"""

# Triton reads annotations of kernel parameters itself.
# mypy: allow-untyped-defs
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import architecture, launch
from kernels.patch.tiles import Load, select_forward, select_gradient, split_tokens
from kernels.patch.triton_pixels import token_values

_SUM_BLOCK = 1024


@triton.jit
def patch_embed_kernel(
    pixels,
    indices,
    mean,
    std,
    erase_box,
    erase_seed,
    partner,
    lam,
    mix_box,
    weight,
    bias,
    output,
    tokens,
    columns,
    frames,
    height,
    width,
    PATCH: tl.constexpr,
    FRAMES: tl.constexpr,
    ERASE: tl.constexpr,
    MIX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of ``output`` (M, D) = values (M, K) @ ``weight`` (D, K)^T + ``bias``; columns fastest in the grid."""
    VALUES: tl.constexpr = FRAMES * PATCH * PATCH * 3
    tiles_n = tl.cdiv(columns, BLOCK_N)
    m = tl.program_id(0) // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    token = tl.load(indices + m, mask=m < tokens, other=0)[:, None]
    is_token = (m < tokens)[:, None]
    is_column = n < columns
    total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, VALUES, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        wanted = is_token
        met = is_column[None, :]
        if VALUES % BLOCK_K != 0:
            wanted = is_token & (k < VALUES)[None, :]
            met = is_column[None, :] & (k < VALUES)[:, None]
        # fmt: off
        values = token_values(
            pixels, mean, std, erase_box, erase_seed, partner, lam, mix_box, token, k[None, :], wanted, frames, height,
            width, PATCH, FRAMES, ERASE, MIX,
        )
        # fmt: on
        kernel = tl.load(weight + n[None, :] * VALUES + k[:, None], mask=met, other=0.0)
        total = tl.dot(values.to(kernel.dtype), kernel, total, input_precision="ieee")
    total += tl.load(bias + n, mask=is_column, other=0.0).to(tl.float32)[None, :]
    place = output + m.to(tl.int64)[:, None] * columns + n[None, :]
    tl.store(place, total.to(output.dtype.element_ty), mask=is_token & is_column[None, :])


@triton.jit
def patch_gradient_kernel(
    pixels,
    indices,
    mean,
    std,
    erase_box,
    erase_seed,
    partner,
    lam,
    mix_box,
    d_output,
    partial,
    tokens,
    columns,
    tokens_per_split,
    frames,
    height,
    width,
    PATCH: tl.constexpr,
    FRAMES: tl.constexpr,
    ERASE: tl.constexpr,
    MIX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of values^T @ ``d_output`` over one split of the tokens; the programs past the last K tile sum columns.

    A split of ``partial`` holds (D, 3, K / 3), the order of the weight, then the bias gradient (D,), in float32.
    """
    VALUES: tl.constexpr = FRAMES * PATCH * PATCH * 3
    tiles_n = tl.cdiv(columns, BLOCK_N)
    tile_k = tl.program_id(0) // tiles_n
    n = tl.program_id(0) % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = (n < columns)[None, :]
    start = tl.program_id(1) * tokens_per_split
    stop = tl.minimum(start + tokens_per_split, tokens)
    partial += tl.program_id(1).to(tl.int64) * columns * (VALUES + 1)
    if tile_k * BLOCK_K >= VALUES:
        column_sum = tl.zeros([BLOCK_N], dtype=tl.float32)
        for first in range(start, stop, BLOCK_M):
            m = first + tl.arange(0, BLOCK_M)
            place = d_output + m.to(tl.int64)[:, None] * columns + n[None, :]
            slope = tl.load(place, mask=(m < stop)[:, None] & is_column, other=0.0)
            column_sum += tl.sum(slope.to(tl.float32), axis=0)
        tl.store(partial + columns * VALUES + n, column_sum, mask=n < columns)
    else:
        k = (tile_k * BLOCK_K + tl.arange(0, BLOCK_K))[:, None]
        total = tl.zeros([BLOCK_K, BLOCK_N], dtype=tl.float32)
        for first in range(start, stop, BLOCK_M):
            m = first + tl.arange(0, BLOCK_M)
            token = tl.load(indices + m, mask=m < stop, other=0)[None, :]
            # fmt: off
            values = token_values(
                pixels, mean, std, erase_box, erase_seed, partner, lam, mix_box, token, k,
                (m < stop)[None, :] & (k < VALUES), frames, height, width, PATCH, FRAMES, ERASE, MIX,
            )
            # fmt: on
            place = d_output + m.to(tl.int64)[:, None] * columns + n[None, :]
            slope = tl.load(place, mask=(m < stop)[:, None] & is_column, other=0.0)
            total = tl.dot(values.to(slope.dtype), slope, total, input_precision="ieee")
        place = partial + n[None, :] * VALUES + (k % 3 * (VALUES // 3) + k // 3)
        tl.store(place, total, mask=(k < VALUES) & is_column)


@triton.jit
def patch_gradient_sum_kernel(
    partial, d_weight, d_bias, columns, splits, VALUES: tl.constexpr, REPEATS: tl.constexpr, BLOCK: tl.constexpr
):
    """Splits added in order; a still image's gradient goes to each of the ``REPEATS`` temporal slices of the weight."""
    PLANE: tl.constexpr = VALUES // 3
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    weights = columns * VALUES * REPEATS
    is_weight = place < weights
    is_bias = (place >= weights) & (place < weights + columns)
    source = place // (REPEATS * PLANE) * PLANE + place % PLANE
    source = tl.where(is_weight, source, columns * VALUES + place - weights)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    addend = partial + source
    for _ in range(0, splits):
        total += tl.load(addend, mask=is_weight | is_bias, other=0.0)
        addend += columns * (VALUES + 1)
    tl.store(d_weight + place, total.to(d_weight.dtype.element_ty), mask=is_weight)
    tl.store(d_bias + (place - weights), total.to(d_bias.dtype.element_ty), mask=is_bias)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The pixels of a call and what happens to them; tensors an op leaves out are None."""

    pixels: Tensor
    indices: Tensor
    mean: Tensor
    std: Tensor
    erase_box: Tensor | None
    erase_seed: Tensor | None
    partner: Tensor | None
    lam: Tensor | None
    mix_box: Tensor | None
    noise: bool
    patch_size: int
    frames_per_token: int

    @property
    def values(self) -> int:
        """Values of a tubelet, K."""
        return self.frames_per_token * self.patch_size**2 * 3

    def arguments(self) -> list[Tensor]:
        """The tensors in the kernels' order; one that is never read stands in for each that is missing."""
        optional = (self.erase_box, self.erase_seed, self.partner, self.lam, self.mix_box)
        spare = (self.indices, self.indices, self.indices, self.mean, self.indices)
        chosen = [given if given is not None else unread for given, unread in zip(optional, spare, strict=True)]
        return [tensor.contiguous() for tensor in (self.pixels, self.indices, self.mean, self.std, *chosen)]

    def constants(self) -> dict[str, int]:
        """What a kernel is compiled for."""
        return {
            "PATCH": self.patch_size,
            "FRAMES": self.frames_per_token,
            "ERASE": 0 if self.erase_box is None else 2 if self.noise else 1,
            "MIX": 0 if self.partner is None else 1 if self.mix_box is None else 2,
        }

    @property
    def load(self) -> Load:
        """What happens to pixels in the load."""
        if self.erase_box is None and self.partner is None:
            return "plain"
        return "noise" if self.erase_box is not None and self.noise else "changed"


def embed(scene: Scene, weight: Tensor, bias: Tensor) -> Tensor:
    """Embedding (M, D) of the wanted tokens; ``weight`` (D, 3, tubelet, p, p).

    The weight is copied into the order of the pixels, 2.4 MB for ViT-B, since its own order would make every tile load
    it in pieces of 2 bytes; for still images the same copy sums the temporal slices.
    """
    columns, tokens = weight.shape[0], scene.indices.shape[0]
    if scene.frames_per_token != weight.shape[2]:
        weight = weight.sum(2, keepdim=True)
    kernel = weight.permute(0, 2, 3, 4, 1).contiguous()
    output = torch.empty(tokens, columns, dtype=weight.dtype, device=weight.device)
    tile = select_forward(architecture(weight.device), weight.dtype, tokens, scene.load)
    launch(
        patch_embed_kernel,
        (triton.cdiv(tokens, tile.block_m) * triton.cdiv(columns, tile.block_n),),
        *scene.arguments(),
        kernel,
        bias.contiguous(),
        output,
        tokens,
        columns,
        *scene.pixels.shape[1:4],
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **scene.constants(),
        **tile.blocks(),
    )
    return output


def embed_gradients(scene: Scene, d_output: Tensor, tubelet_size: int) -> tuple[Tensor, Tensor]:
    """Gradients of the weight (D, 3, tubelet, p, p) and the bias (D,) in the dtype of ``d_output`` (M, D)."""
    tokens, columns = d_output.shape
    device, dtype = d_output.device, d_output.dtype
    family = architecture(device)
    tile = select_gradient(family, dtype, scene.load)
    tiles_n = triton.cdiv(columns, tile.block_n)
    tiles = (triton.cdiv(scene.values, tile.block_k) + 1) * tiles_n
    splits, tokens_per_split = split_tokens(family, tokens, tiles, tile.block_m)
    partial = torch.empty(splits, columns * (scene.values + 1), dtype=torch.float32, device=device)
    launch(
        patch_gradient_kernel,
        (tiles, splits),
        *scene.arguments(),
        d_output.contiguous(),
        partial,
        tokens,
        columns,
        tokens_per_split,
        *scene.pixels.shape[1:4],
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **scene.constants(),
        **tile.blocks(),
    )
    d_weight = torch.empty(columns, 3, tubelet_size, scene.patch_size, scene.patch_size, dtype=dtype, device=device)
    d_bias = torch.empty(columns, dtype=dtype, device=device)
    launch(
        patch_gradient_sum_kernel,
        (triton.cdiv(d_weight.numel() + columns, _SUM_BLOCK),),
        partial,
        d_weight,
        d_bias,
        columns,
        splits,
        num_warps=4,
        num_stages=2,
        VALUES=scene.values,
        REPEATS=tubelet_size // scene.frames_per_token,
        BLOCK=_SUM_BLOCK,
    )
    return d_weight, d_bias
