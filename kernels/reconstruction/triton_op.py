"""The Triton backend as custom ops: shapes for tracing, gradients from the kept residual."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.reconstruction.target import TargetRequest
from kernels.reconstruction.triton_backward import head_gradients, hidden_gradient
from kernels.reconstruction.triton_forward import residual_and_loss


@torch.library.custom_op("s4d::triton_reconstruction", mutates_args=())
def triton_reconstruction(
    hidden: Tensor, weight: Tensor, bias: Tensor, pixels: Tensor, indices: Tensor, tubelet_size: int, keep: bool
) -> tuple[Tensor, Tensor]:
    """Loss () float32, and the residual (M, V) for the backward where ``keep``, else (0, V)."""
    return residual_and_loss(hidden, weight, bias, pixels, indices, tubelet_size, keep=keep)


@triton_reconstruction.register_fake
def _(
    hidden: Tensor, weight: Tensor, bias: Tensor, pixels: Tensor, indices: Tensor, tubelet_size: int, keep: bool
) -> tuple[Tensor, Tensor]:
    kept = hidden.shape[0] if keep else 0
    return hidden.new_empty((), dtype=torch.float32), hidden.new_empty(kept, weight.shape[0])


@torch.library.custom_op("s4d::triton_reconstruction_backward", mutates_args=())
def triton_reconstruction_backward(
    residual: Tensor, hidden: Tensor, weight: Tensor, upstream: Tensor, needs_hidden: bool, needs_head: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden (M, D), weight (V, D) and bias (V,); empty where they are not needed."""
    upstream = upstream.to(torch.float32)
    nothing = residual.new_empty(0)
    d_hidden = hidden_gradient(residual, weight, upstream) if needs_hidden else nothing
    d_weight, d_bias = head_gradients(residual, hidden, upstream) if needs_head else (nothing.clone(), nothing.clone())
    return d_hidden, d_weight, d_bias


@triton_reconstruction_backward.register_fake
def _(
    residual: Tensor, hidden: Tensor, weight: Tensor, upstream: Tensor, needs_hidden: bool, needs_head: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        residual.new_empty(hidden.shape if needs_hidden else (0,)),
        residual.new_empty(weight.shape if needs_head else (0,)),
        residual.new_empty(weight.shape[:1] if needs_head else (0,)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    hidden, weight, _, _, _, _, keep = inputs
    _, residual = output
    ctx.mark_non_differentiable(residual)
    # No gradient as large as the residual is made up for an output that has none.
    ctx.set_materialize_grads(False)
    if keep:
        ctx.save_for_backward(hidden, weight, residual)


def _backward(ctx: Any, upstream: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return (None,) * 7
    hidden, weight, residual = ctx.saved_tensors
    needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    d_hidden, d_weight, d_bias = triton_reconstruction_backward(
        residual, hidden, weight, upstream, needs_hidden, needs_weight or needs_bias
    )
    return (
        d_hidden if needs_hidden else None,
        d_weight if needs_weight else None,
        d_bias if needs_bias else None,
        *(None,) * 4,
    )


triton_reconstruction.register_autograd(_backward, setup_context=_setup_context)


def masked_loss(hidden: Tensor, head_weight: Tensor, head_bias: Tensor, request: TargetRequest) -> Tensor:
    """Sum over tokens of the mean squared error, a float32 scalar; nothing is kept where no gradient can follow."""
    needs_gradient = hidden.requires_grad or head_weight.requires_grad or head_bias.requires_grad
    keep = torch.is_grad_enabled() and needs_gradient
    loss: Tensor = triton_reconstruction(
        hidden, head_weight, head_bias, request.pixels, request.indices, request.tubelet_size, keep
    )[0]
    return loss
