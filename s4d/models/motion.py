"""How well the change within a tubelet is predicted: the part of a reconstruction that a still image cannot teach.

For two frames with errors a and b the reconstruction loss, (a^2 + b^2) / 2, is ((a + b)^2 + (b - a)^2) / 4, and nearly
all of its target lies in the sum, since neighbouring frames are alike. This term is (b - a)^2: with weight w beside the
loss the error of the change counts 1 + 4 w times.

Letters: M tokens, D width, F frames of a tubelet, P pixel values of a token.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kernels.reconstruction.target import TargetRequest, normalised_target


def motion_error(hidden: Tensor, weight: Tensor, bias: Tensor, request: TargetRequest) -> Tensor:
    """Sum over tokens of the mean squared error of the differences between neighbouring frames, a scalar.

    `hidden` (M, D), `weight` (P, D) and `bias` (P,) give the prediction; the target is that of the reconstruction loss,
    normalised per token, so it is 0 for a still image. The difference is taken in the weights: the product is smaller
    by one frame, and half precision keeps what two nearly equal predictions would lose. Costs beside the loss: that
    product, the target once more, and (M, P (F - 1) / F) of each in float32.
    """
    frames = request.tubelet_size
    change = weight.unflatten(0, (frames, -1)).diff(dim=0).flatten(0, 1)
    offset = bias.unflatten(0, (frames, -1)).diff(dim=0).flatten()
    predicted = F.linear(hidden, change, offset).to(request.dtype)
    target = normalised_target(request).unflatten(1, (frames, -1)).diff(dim=1).flatten(1)
    return (predicted - target).square().mean(-1).sum()
