"""The Triton backend as custom ops: shapes for tracing, and a backward that gathers the pixels again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.patch.request import PatchRequest
from kernels.patch.triton_embed import Scene, embed, embed_gradients


@torch.library.custom_op("s4d::triton_patch", mutates_args=())
def triton_patch(
    weight: Tensor,
    bias: Tensor,
    pixels: Tensor,
    indices: Tensor,
    mean: Tensor,
    std: Tensor,
    erase_box: Tensor | None,
    erase_seed: Tensor | None,
    partner: Tensor | None,
    lam: Tensor | None,
    mix_box: Tensor | None,
    noise: bool,
    frames_per_token: int,
) -> Tensor:
    """Embedding (M, D) of the wanted tokens."""
    scene = Scene(
        pixels=pixels,
        indices=indices,
        mean=mean,
        std=std,
        erase_box=erase_box,
        erase_seed=erase_seed,
        partner=partner,
        lam=lam,
        mix_box=mix_box,
        noise=noise,
        patch_size=weight.shape[3],
        frames_per_token=frames_per_token,
    )
    return embed(scene, weight, bias)


@triton_patch.register_fake
def _(weight: Tensor, bias: Tensor, pixels: Tensor, indices: Tensor, *_: Any) -> Tensor:
    return weight.new_empty(indices.shape[0], weight.shape[0])


@torch.library.custom_op("s4d::triton_patch_backward", mutates_args=())
def triton_patch_backward(
    d_output: Tensor,
    pixels: Tensor,
    indices: Tensor,
    mean: Tensor,
    std: Tensor,
    erase_box: Tensor | None,
    erase_seed: Tensor | None,
    partner: Tensor | None,
    lam: Tensor | None,
    mix_box: Tensor | None,
    noise: bool,
    frames_per_token: int,
    tubelet_size: int,
    patch_size: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of the weight (D, 3, tubelet, p, p) and the bias (D,)."""
    scene = Scene(
        pixels=pixels,
        indices=indices,
        mean=mean,
        std=std,
        erase_box=erase_box,
        erase_seed=erase_seed,
        partner=partner,
        lam=lam,
        mix_box=mix_box,
        noise=noise,
        patch_size=patch_size,
        frames_per_token=frames_per_token,
    )
    return embed_gradients(scene, d_output, tubelet_size)


@triton_patch_backward.register_fake
def _(
    d_output: Tensor,
    pixels: Tensor,
    indices: Tensor,
    mean: Tensor,
    std: Tensor,
    erase_box: Tensor | None,
    erase_seed: Tensor | None,
    partner: Tensor | None,
    lam: Tensor | None,
    mix_box: Tensor | None,
    noise: bool,
    frames_per_token: int,
    tubelet_size: int,
    patch_size: int,
) -> tuple[Tensor, Tensor]:
    columns = d_output.shape[1]
    return d_output.new_empty(columns, 3, tubelet_size, patch_size, patch_size), d_output.new_empty(columns)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, _, *tensors, noise, frames_per_token = inputs
    ctx.save_for_backward(*tensors)
    ctx.settings = (noise, frames_per_token, weight.shape[2], weight.shape[3])


def _backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
    needs_weight, needs_bias = ctx.needs_input_grad[:2]
    d_weight, d_bias = triton_patch_backward(d_output, *ctx.saved_tensors, *ctx.settings)
    return d_weight if needs_weight else None, d_bias if needs_bias else None, *(None,) * 11


triton_patch.register_autograd(_backward, setup_context=_setup_context)


def embed_visible(request: PatchRequest, weight: Tensor, bias: Tensor) -> Tensor:
    """Embed the wanted tokens, (M, D)."""
    mix, erase = request.mix, request.erase
    output: Tensor = triton_patch(
        weight,
        bias,
        request.pixels,
        request.indices,
        request.mean,
        request.std,
        None if erase is None else erase.box,
        None if erase is None else erase.seed,
        None if mix is None else mix.partner,
        None if mix is None else mix.lam,
        None if mix is None else mix.box,
        erase is not None and erase.noise,
        request.grid.frames_per_token,
    )
    return output
