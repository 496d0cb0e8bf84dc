"""Tokens as pixels: which pixels a token covers, and the gather of wanted tubelets, shared by embedding and target.

Tokens of a group are numbered sample-major, then temporal slice, row, column. A tubelet is ``tubelet_size`` frames by
``patch_size`` by ``patch_size``; a still image (one frame) has one slice whose tubelets hold that frame once.
Letters: n samples, F frames, M wanted tokens, f frames of a tubelet, p patch size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenGrid:
    """Geometry of a group's tokens; all host integers."""

    samples: int
    frames: int
    height: int
    width: int
    patch_size: int
    frames_per_token: int

    @property
    def slices(self) -> int:
        """Temporal slices of a sample."""
        return self.frames // self.frames_per_token

    @property
    def rows(self) -> int:
        """Patch rows of a frame."""
        return self.height // self.patch_size

    @property
    def columns(self) -> int:
        """Patch columns of a frame."""
        return self.width // self.patch_size

    @property
    def tokens_per_sample(self) -> int:
        """Tokens of one sample."""
        return self.slices * self.rows * self.columns


def token_grid(pixels: Tensor, patch_size: int, tubelet_size: int) -> TokenGrid:
    """Grid of ``pixels`` (n, F, H, W, 3); F is 1 or a multiple of the tubelet, H and W multiples of the patch."""
    if pixels.ndim != 5 or pixels.shape[-1] != 3:
        raise ValueError(f"pixels: expected (n, frames, height, width, 3), got {tuple(pixels.shape)}")
    if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
        raise ValueError(f"pixels: expected uint8 or floating point, got {pixels.dtype}")
    samples, frames, height, width, _ = pixels.shape
    if height % patch_size or width % patch_size:
        raise ValueError(f"pixels: expected height and width in multiples of {patch_size}, got {height} x {width}")
    if frames != 1 and (frames == 0 or frames % tubelet_size):
        raise ValueError(f"pixels: expected 1 frame or a multiple of {tubelet_size}, got {frames}")
    return TokenGrid(
        samples=samples,
        frames=frames,
        height=height,
        width=width,
        patch_size=patch_size,
        frames_per_token=1 if frames == 1 else tubelet_size,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPixels:
    """Where the pixels of M tokens lie: ``sample`` (M,), ``frame`` (M, f), ``y`` (M, p), ``x`` (M, p), all int64."""

    sample: Tensor
    frame: Tensor
    y: Tensor
    x: Tensor


def token_pixels(grid: TokenGrid, indices: Tensor) -> TokenPixels:
    """Coordinates of the tokens ``indices`` (M,) int64."""
    column = indices % grid.columns
    row = indices // grid.columns % grid.rows
    temporal = indices // (grid.columns * grid.rows) % grid.slices
    within_patch = torch.arange(grid.patch_size, device=indices.device)
    within_tubelet = torch.arange(grid.frames_per_token, device=indices.device)
    return TokenPixels(
        sample=indices // grid.tokens_per_sample,
        frame=temporal[:, None] * grid.frames_per_token + within_tubelet,
        y=row[:, None] * grid.patch_size + within_patch,
        x=column[:, None] * grid.patch_size + within_patch,
    )


def gather_tubelets(pixels: Tensor, indices: Tensor, grid: TokenGrid) -> Tensor:
    """Pixels of the tokens ``indices`` (M,) as (M, f, p, p, 3) in the dtype of ``pixels``; nothing else is read."""
    place = token_pixels(grid, indices)
    # A run of p pixels of one image row is contiguous, so the gather copies runs of 3 p values.
    runs = pixels.reshape(-1, grid.patch_size * 3)
    frame = place.sample[:, None] * grid.frames + place.frame
    line = frame[:, :, None] * grid.height + place.y[:, None, :]
    run = line * grid.columns + (indices % grid.columns)[:, None, None]
    shape = (indices.shape[0], grid.frames_per_token, grid.patch_size, grid.patch_size, 3)
    return runs.index_select(0, run.flatten()).view(shape)


def unfold_tubelets(frames: Tensor, grid: TokenGrid) -> Tensor:
    """Every token of ``frames`` (n, F, H, W, 3) as (n * tokens, f, p, p, 3)."""
    f, p = grid.frames_per_token, grid.patch_size
    split = frames.reshape(grid.samples, grid.slices, f, grid.rows, p, grid.columns, p, 3)
    return split.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, f, p, p, 3)


def check_indices(indices: Tensor) -> None:
    """Refuse anything but (M,) int64; values are not read, since that would wait for the device."""
    if indices.ndim != 1 or indices.dtype != torch.int64:
        raise ValueError(f"indices: expected int64 (M,), got {indices.dtype} {tuple(indices.shape)}")
