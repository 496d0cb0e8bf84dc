"""Portable fast backend: gathers only the wanted tubelets, then one matmul; the weight gradient gathers again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels.patch.pixels import erased, inside, mixed, normalise, own_share
from kernels.patch.request import PatchRequest
from kernels.patch.tubelets import gather_tubelets, token_pixels

Rows = Callable[[PatchRequest], Tensor]


def _values(request: PatchRequest, indices: Tensor) -> Tensor:
    """Normalised and erased tubelets (M, f, p, p, 3) of the tokens ``indices``."""
    grid, erase = request.grid, request.erase
    values = normalise(gather_tubelets(request.pixels, indices, grid), request.mean, request.std, request.compute_dtype)
    if erase is None:
        return values
    place = token_pixels(grid, indices)
    pixel = (place.frame[:, :, None, None] * grid.height + place.y[:, None, :, None]) * grid.width
    pixel = pixel + place.x[:, None, None, :]
    within = inside(erase.box[place.sample], place.y, place.x)
    return erased(values, erase, request.black, sample=place.sample, pixel=pixel, within=within)


def gathered_rows(request: PatchRequest) -> Tensor:
    """Normalised, erased and mixed values of the wanted tokens, (M, 3 * f * p * p): the weight's own order."""
    values = _values(request, request.indices)
    if request.mix is not None:
        place = token_pixels(request.grid, request.indices)
        shift = request.mix.partner[place.sample] - place.sample
        partner = _values(request, request.indices + shift * request.grid.tokens_per_sample)
        values = mixed(values, partner, own_share(request.mix, place.sample, place.y, place.x))
    return values.permute(0, 4, 1, 2, 3).flatten(1)


class _EmbedRows(torch.autograd.Function):
    """rows @ kernel^T + bias, keeping the uint8 pixels instead of the float rows for the backward."""

    @staticmethod
    def forward(ctx: Any, kernel: Tensor, bias: Tensor, request: PatchRequest, rows: Rows) -> Tensor:
        ctx.request, ctx.rows = request, rows
        return torch.addmm(bias, rows(request).to(kernel.dtype), kernel.t())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (d_output,) = grads
        d_kernel = None
        if ctx.needs_input_grad[0]:
            d_kernel = d_output.t() @ ctx.rows(ctx.request).to(d_output.dtype)
        d_bias = d_output.sum(0) if ctx.needs_input_grad[1] else None
        return d_kernel, d_bias, None, None


def embed_rows(request: PatchRequest, weight: Tensor, bias: Tensor, rows: Rows) -> Tensor:
    """Project the rows that ``rows`` gathers; a still image meets the temporally summed weight, which is exact."""
    if request.grid.frames_per_token != weight.shape[2]:
        weight = weight.sum(2, keepdim=True)
    output: Tensor = _EmbedRows.apply(weight.flatten(1), bias, request, rows)
    return output


def embed_visible(request: PatchRequest, weight: Tensor, bias: Tensor) -> Tensor:
    """Embed the wanted tokens, (M, D)."""
    return embed_rows(request, weight, bias, gathered_rows)
