"""The definition: float frames, every tubelet unfolded, the wanted ones selected and projected."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from kernels.patch.pixels import erased, inside, mixed, normalise, own_share
from kernels.patch.request import PatchRequest
from kernels.patch.tubelets import unfold_tubelets


def prepared_frames(request: PatchRequest) -> Tensor:
    """All frames (n, F, H, W, 3), normalised, erased and mixed."""
    grid, device = request.grid, request.pixels.device
    frames = normalise(request.pixels, request.mean, request.std, request.compute_dtype)
    sample = torch.arange(grid.samples, device=device)
    y = torch.arange(grid.height, device=device).expand(grid.samples, -1)
    x = torch.arange(grid.width, device=device).expand(grid.samples, -1)
    if request.erase is not None:
        pixel = torch.arange(grid.frames * grid.height * grid.width, device=device)
        pixel = pixel.view(1, grid.frames, grid.height, grid.width).expand(grid.samples, -1, -1, -1)
        within = inside(request.erase.box, y, x)
        frames = erased(frames, request.erase, request.black, sample=sample, pixel=pixel, within=within)
    if request.mix is not None:
        frames = mixed(frames, frames[request.mix.partner], own_share(request.mix, sample, y, x))
    return frames


def embed_visible(request: PatchRequest, weight: Tensor, bias: Tensor) -> Tensor:
    """Embed the wanted tokens, (M, D); a still image is repeated to a whole tubelet."""
    tubelets = unfold_tubelets(prepared_frames(request), request.grid)[request.indices]
    tubelets = tubelets.expand(-1, weight.shape[2], -1, -1, -1)
    kernel = weight.permute(0, 2, 3, 4, 1).flatten(1)
    return linear(tubelets.flatten(1).to(weight.dtype), kernel, bias)
