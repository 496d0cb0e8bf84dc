"""Portable fast backend: keeps the residual alone; the incoming gradient scales the small results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.reconstruction.target import TargetRequest, normalised_target


class _MaskedLoss(torch.autograd.Function):
    """The loss is quadratic: its backward needs the residual, and neither prediction nor target."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, request: TargetRequest) -> Tensor:
        # Holds the prediction and then, in place, the residual.
        residual = torch.addmm(bias, hidden, weight.t()).to(request.dtype).sub_(normalised_target(request))
        # Unlike a sum of squares, a norm needs no second tensor of this size.
        loss = torch.linalg.vector_norm(residual, dim=1).square().sum() / residual.shape[1]
        ctx.save_for_backward(hidden, weight, residual.to(hidden.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, residual = ctx.saved_tensors
        # The incoming gradient stays on the device; it is applied in float32 or wider, since a scaled-down gradient
        # alone can lie below the range of half precision.
        scale = grads[0] * (2 / residual.shape[1])

        def scaled(unscaled: Tensor) -> Tensor:
            return (unscaled.to(scale.dtype) * scale).to(hidden.dtype)

        needs_hidden, needs_weight, needs_bias, _ = ctx.needs_input_grad
        return (
            scaled(residual @ weight) if needs_hidden else None,
            scaled(residual.t() @ hidden) if needs_weight else None,
            scaled(residual.sum(0, dtype=scale.dtype)) if needs_bias else None,
            None,
        )


def masked_loss(hidden: Tensor, head_weight: Tensor, head_bias: Tensor, request: TargetRequest) -> Tensor:
    """Sum over tokens of the mean squared error, a scalar in the dtype of the target."""
    loss: Tensor = _MaskedLoss.apply(hidden, head_weight, head_bias, request)
    return loss
