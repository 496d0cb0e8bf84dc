"""The target of masked reconstruction: pixels of a tubelet, normalised per token and channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.patch.tubelets import TokenGrid, check_indices, gather_tubelets, token_grid

# Inside the root, added to the unbiased variance.
EPS = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetRequest:
    """Which tokens (``indices``, (M,)) of which pixels to reconstruct, and the dtype of the target."""

    pixels: Tensor
    indices: Tensor
    grid: TokenGrid
    tubelet_size: int
    dtype: torch.dtype

    @property
    def repeats(self) -> int:
        """How often a token's frames count: a still image fills a whole tubelet with its frame."""
        return self.tubelet_size // self.grid.frames_per_token


def target_request(
    pixels: Tensor, indices: Tensor, patch_size: int, tubelet_size: int, dtype: torch.dtype
) -> TargetRequest:
    """Check the pixels and indices of a call and describe its target."""
    check_indices(indices)
    grid = token_grid(pixels, patch_size, tubelet_size)
    return TargetRequest(pixels=pixels, indices=indices, grid=grid, tubelet_size=tubelet_size, dtype=dtype)


def normalised_target(request: TargetRequest) -> Tensor:
    """Target (M, tubelet * p * p * 3) of a request, in its dtype."""
    x = gather_tubelets(request.pixels, request.indices, request.grid).to(request.dtype).flatten(1, 3)
    if request.pixels.dtype == torch.uint8:
        x = x / 255
    count = request.repeats * x.shape[1]
    centred = x - x.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) * (request.repeats / (count - 1))
    target = centred / torch.sqrt(variance + EPS)
    return target.flatten(1).repeat(1, request.repeats)


def patch_targets(pixels: Tensor, indices: Tensor, patch_size: int, tubelet_size: int) -> Tensor:
    """Targets (M, tubelet * p * p * 3) of the tokens ``indices`` (M,) int64, ordered frame, row, column, channel.

    (x - mean) / sqrt(unbiased variance + 1e-6) over the tubelet's positions, for each token and channel; x in [0, 1]:
    uint8 pixels (n, F, H, W, 3) are divided by 255, floating-point ones taken as they are. A still image counts its
    frame once for every frame of a tubelet. float64 for float64 pixels, else float32.
    """
    dtype = torch.float64 if pixels.dtype == torch.float64 else torch.float32
    return normalised_target(target_request(pixels, indices, patch_size, tubelet_size, dtype))
