"""Seeded normal values that a dtype holds exactly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def normals(seed: int, dtype: torch.dtype) -> Callable[..., Tensor]:
    """``normal(*shape, scale=1.0)``: float64 tensors of values rounded to ``dtype``, one stream for each seed."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype).double()

    return normal
