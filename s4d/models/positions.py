"""The fixed position table: a 1-D sinusoid over the flattened raster index of a clip's tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoid_table(num_positions: int, dim: int) -> Tensor:
    """Table (num_positions, dim) float32, computed in float64: even channels sine, odd channels cosine.

    Channel j of position p holds p / 10000^(2 * floor(j / 2) / dim). Row p is the same in a table of any length, so
    that a still image (one temporal slice) simply uses the first rows.
    """
    # The host computes it whatever the default device is, so that every machine holds the same bits.
    position = torch.arange(num_positions, dtype=torch.float64, device="cpu")[:, None]
    channel = torch.arange(dim, device="cpu")
    exponent = (channel // 2 * 2).to(torch.float64) / dim
    angle = position / torch.pow(torch.tensor(10000.0, dtype=torch.float64, device="cpu"), exponent)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).to(torch.float32)
