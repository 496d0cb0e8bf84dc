"""CPU backend: a block of tokens at a time, so that prediction, target and residual never exist as a whole.

The forward takes the gradients along with the loss and keeps them unscaled: the loss is quadratic, so the incoming
gradient only multiplies them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.native.ops import subtract_targets_
from kernels.reconstruction.target import TargetRequest

# 1024 and 2048 measured alike; 512 costs 3 % more, and blocks that leave the cache 10 %. A fixed number: sums over
# tokens do not depend on the machine.
_BLOCK_TOKENS = 1024
# What the library computes in; other dtypes pass through float32.
_STORED = {torch.float32, torch.float64, torch.bfloat16}


@torch.library.custom_op("s4d::native_masked_loss", mutates_args=(), device_types="cpu")
def _loss_and_gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    pixels: Tensor,
    indices: Tensor,
    geometry: Sequence[int],
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum of squared residuals, and the unscaled gradients of hidden, weight and bias that are ``wanted``, else empty.

    ``geometry`` is patch size, frames of a token and how often they count. The gradient of hidden has its dtype, the
    others at least float32.
    """
    patch_size, frames_per_token, repeats = geometry
    pixels, indices = pixels.contiguous(), indices.contiguous()
    tokens, values = hidden.shape[0], weight.shape[0]
    squares, d_hidden, d_weight, d_bias = _outputs(hidden, weight, wanted)
    columns = torch.zeros(values, dtype=torch.float64)
    prediction = hidden.new_empty(min(tokens, _BLOCK_TOKENS), values)
    for start in range(0, tokens, _BLOCK_TOKENS):
        rows = hidden[start : start + _BLOCK_TOKENS]
        residual = torch.addmm(bias, rows, weight.t(), out=prediction[: rows.shape[0]])
        wide = residual if residual.dtype in _STORED else residual.float()
        block_squares, block_columns = subtract_targets_(
            wide,
            pixels,
            indices[start : start + _BLOCK_TOKENS],
            patch_size=patch_size,
            frames_per_token=frames_per_token,
            repeats=repeats,
        )
        squares += block_squares
        columns += block_columns
        residual = residual if wide is residual else residual.copy_(wide)
        if wanted[0]:
            torch.mm(residual, weight, out=d_hidden[start : start + _BLOCK_TOKENS])
        if wanted[1] and d_weight.dtype == rows.dtype:
            d_weight.addmm_(residual.t(), rows)
        elif wanted[1]:
            d_weight += residual.t() @ rows
    return squares, d_hidden, d_weight, columns.to(d_bias.dtype) if wanted[2] else d_bias


@_loss_and_gradients.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    pixels: Tensor,
    indices: Tensor,
    geometry: Sequence[int],
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _outputs(hidden, weight, wanted)


def _outputs(hidden: Tensor, weight: Tensor, wanted: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Squares (), zero, and gradients: of hidden (M, D), unwritten, of weight (values, D) and bias (values,), zero."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return (
        hidden.new_zeros((), dtype=torch.float64),
        hidden.new_empty(hidden.shape if wanted[0] else (0,)),
        weight.new_zeros(weight.shape if wanted[1] else (0,), dtype=wide),
        weight.new_zeros(weight.shape[:1] if wanted[2] else (0,), dtype=wide),
    )


class _MaskedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, request: TargetRequest, wanted: tuple[bool, ...]
    ) -> Tensor:
        geometry = (request.grid.patch_size, request.grid.frames_per_token, request.repeats)
        squares, *gradients = _loss_and_gradients(
            hidden, weight, bias, request.pixels, request.indices, geometry, wanted
        )
        ctx.save_for_backward(*gradients)
        ctx.values, ctx.stored = weight.shape[0], hidden.dtype
        loss: Tensor = (squares / weight.shape[0]).to(request.dtype)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # A factor without dimensions multiplies in its own precision, yet leaves a half-precision product one.
        scale = grads[0] * (2 / ctx.values)
        scaled = [
            (gradient * scale).to(ctx.stored) if needed else None
            for gradient, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[:3], strict=True)
        ]
        return *scaled, None, None


def masked_loss(hidden: Tensor, head_weight: Tensor, head_bias: Tensor, request: TargetRequest) -> Tensor:
    """Sum over tokens of the mean squared error, a scalar in the dtype of the target."""
    leaves = (hidden, head_weight, head_bias)
    wanted = tuple(torch.is_grad_enabled() and leaf.requires_grad for leaf in leaves)
    loss: Tensor = _MaskedLoss.apply(*leaves, request, wanted)
    return loss
