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
    patch = request.grid.patch_size
    # Lines of p pixels, (M, f * p, p * 3): reductions and broadcasts run along them instead of along 3 channels.
    x = gather_tubelets(request.pixels, request.indices, request.grid).to(request.dtype).flatten(1, 2).flatten(2)

    def channel_sums(values: Tensor) -> Tensor:
        return values.sum(1).unflatten(1, (patch, 3)).sum(1)

    def along_line(statistic: Tensor) -> Tensor:
        return statistic.repeat(1, patch)[:, None, :]

    # In place where autograd allows it: on a CPU fresh memory of this size costs more than the arithmetic.
    if request.pixels.dtype == torch.uint8:
        x.div_(255)
    positions = x.shape[1] * patch
    x.sub_(along_line(channel_sums(x) / positions))
    variance = channel_sums(x.square()) * (request.repeats / (request.repeats * positions - 1))
    target = (x / along_line(torch.sqrt(variance + EPS))).flatten(1)
    return target if request.repeats == 1 else target.repeat(1, request.repeats)


def patch_targets(pixels: Tensor, indices: Tensor, patch_size: int, tubelet_size: int) -> Tensor:
    """Targets (M, tubelet * p * p * 3) of the tokens ``indices`` (M,) int64, ordered frame, row, column, channel.

    (x - mean) / sqrt(unbiased variance + 1e-6) over the tubelet's positions, for each token and channel; x in [0, 1]:
    uint8 pixels (n, F, H, W, 3) are divided by 255, floating-point ones taken as they are. A still image counts its
    frame once for every frame of a tubelet. float64 for float64 pixels, else float32.
    """
    dtype = torch.float64 if pixels.dtype == torch.float64 else torch.float32
    return normalised_target(target_request(pixels, indices, patch_size, tubelet_size, dtype))
