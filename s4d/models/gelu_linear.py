"""Linear layer of the GELU of its input, which keeps for the backward what it is given and not the GELU too.

GELU's own backward reads its input, a product's backward its left side: written one after the other, both are kept, a
quarter of all that a block keeps. Here the GELU is made a second time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (upstream,) = gradients
        # The products of torch's own backward of a linear layer, so that the bits are the same; one after the other, so
        # that a single wide tensor is there at a time.
        weight_gradient = (F.gelu(x).t() @ upstream).t()
        gradient = upstream @ weight
        torch.ops.aten.gelu_backward.grad_input(gradient, x, grad_input=gradient)
        return gradient, weight_gradient, upstream.sum(0)


class GeluLinear(nn.Linear):
    """``linear(gelu(x))`` with exact GELU, in one module since sharded weights are gathered module by module."""

    def forward(self, x: Tensor) -> Tensor:
        """(T, inputs) to (T, outputs)."""
        output: Tensor = _GeluLinear.apply(x, self.weight, self.bias)
        return output
