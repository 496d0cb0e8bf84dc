"""The definition: predict, subtract the target, square, average over values, sum over tokens."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import linear

from kernels.reconstruction.target import TargetRequest, normalised_target


def masked_loss(hidden: Tensor, head_weight: Tensor, head_bias: Tensor, request: TargetRequest) -> Tensor:
    """Sum over tokens of the mean squared error, a scalar in the dtype of the target."""
    prediction = linear(hidden, head_weight, head_bias).to(request.dtype)
    return (prediction - normalised_target(request)).square().mean(-1).sum()
