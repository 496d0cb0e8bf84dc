"""One checked call of the patch embedding, as the backends receive it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.patch.records import Erase, Mix
from kernels.patch.tubelets import TokenGrid


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchRequest:
    """Everything but the learned tensors: which tokens, and what their normalised values are."""

    pixels: Tensor
    indices: Tensor
    mean: Tensor
    std: Tensor
    grid: TokenGrid
    compute_dtype: torch.dtype
    mix: Mix | None
    erase: Erase | None

    @property
    def black(self) -> Tensor:
        """Normalised value of black, (3,)."""
        return -self.mean.to(self.compute_dtype) / self.std.to(self.compute_dtype)
