"""What changes pixels at the embedding: mixing with a partner sample and erasing a box."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def _check(name: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None) -> None:
    if value.shape != shape or (dtype is not None and value.dtype != dtype):
        wanted = "floating point" if dtype is None else str(dtype)
        raise ValueError(f"{name}: expected {wanted} {shape}, got {value.dtype} {tuple(value.shape)}")
    if dtype is None and not value.is_floating_point():
        raise ValueError(f"{name}: expected floating point {shape}, got {value.dtype} {tuple(value.shape)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """Mixup or cutmix of each sample with a partner of the same group.

    ``partner`` (n,) int64. ``lam`` (n,) float: pixels become lam * own + (1 - lam) * partner's. ``box`` (n, 4) int32
    rows [y0, x0, y1, x1): where a box is not empty the sample takes the partner's pixels inside and its own outside
    instead.
    """

    partner: Tensor
    lam: Tensor
    box: Tensor | None = None

    def __post_init__(self) -> None:
        n = self.partner.shape[0] if self.partner.ndim == 1 else 0
        _check("Mix.partner", self.partner, (n,), torch.int64)
        _check("Mix.lam", self.lam, (n,), None)
        if self.box is not None:
            _check("Mix.box", self.box, (n, 4), torch.int32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Erase:
    """One box per sample, ``box`` (n, 4) int32 rows [y0, x0, y1, x1), in every frame; an empty box erases nothing.

    The box becomes black, or with ``noise`` unit gaussian per frame, pixel and channel of the normalised values, a pure
    function of ``seed`` (n,) int64 and the pixel.
    """

    box: Tensor
    seed: Tensor
    noise: bool

    def __post_init__(self) -> None:
        n = self.seed.shape[0] if self.seed.ndim == 1 else 0
        _check("Erase.seed", self.seed, (n,), torch.int64)
        _check("Erase.box", self.box, (n, 4), torch.int32)
