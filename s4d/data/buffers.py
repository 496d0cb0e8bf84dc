"""Memory of a batch's pixels: written once, by the crop, and never copied on its way to the training process."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.data import get_worker_info


def pixel_buffer(shape: tuple[int, ...]) -> Tensor:
    """Uninitialised uint8 tensor; within a decoding process it lies in memory shared with the training process."""
    size = math.prod(shape)
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(size)
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
