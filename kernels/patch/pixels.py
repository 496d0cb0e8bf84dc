"""Normalised values of pixels: normalise, then erase, then mix; the same arithmetic on whole frames and on tubelets.

Every function takes values (..., p, q, 3) whose row and column coordinates are given, so that the definition applies
it to frames and the gathering backends to the tubelets they picked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.patch.records import Erase, Mix
from kernels.philox import normal, philox

# Second key word of the erasing noise; keeps it apart from other users of the same sample seed.
ERASE_STREAM = 0x45524153


def normalise(pixels: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """Values (..., 3) in ``dtype``: (x / 255 - mean) / std of uint8 pixels; float ones are normalised already."""
    if pixels.dtype != torch.uint8:
        return pixels.to(dtype)
    return pixels.to(dtype).div_(255).sub_(mean.to(dtype)).div_(std.to(dtype))


def inside(box: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Whether each pixel (M, p, q) lies in its row of ``box`` (M, 4); ``y`` is (M, p), ``x`` is (M, q)."""
    y0, x0, y1, x1 = box.to(torch.int64)[:, :, None].unbind(1)
    return ((y >= y0) & (y < y1))[:, :, None] & ((x >= x0) & (x < x1))[:, None, :]


def erase_noise(seed: Tensor, pixel: Tensor) -> Tensor:
    """Unit normals (..., 3) float64 of pixel number ``pixel`` in the sample of ``seed`` (broadcastable)."""
    words = philox((seed, seed >> 32, pixel, torch.zeros_like(pixel)), (0, ERASE_STREAM))
    red, green = normal(words[0], words[1])
    blue, _ = normal(words[2], words[3])
    return torch.stack((red, green, blue), dim=-1)


def erased(values: Tensor, erase: Erase, black: Tensor, *, sample: Tensor, pixel: Tensor, within: Tensor) -> Tensor:
    """``values`` (M, f, p, q, 3) with the pixels ``within`` (M, p, q) erased.

    ``sample`` (M,) picks the seed, ``pixel`` (M, f, p, q) numbers pixels within a sample, ``black`` (3,) is the
    normalised value of black.
    """
    fill = black.to(values.dtype)
    if erase.noise:
        fill = erase_noise(erase.seed[sample][:, None, None, None], pixel).to(values.dtype)
    return torch.where(within[:, None, :, :, None], fill, values)


def own_share(mix: Mix, sample: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Weight (M, 1, p, q, 1) of a sample's own pixels: lam, or 0 inside and 1 outside the box where there is one."""
    share = mix.lam[sample][:, None, None]
    if mix.box is not None:
        box = mix.box[sample]
        has_box = ((box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1]))[:, None, None]
        share = torch.where(has_box, (~inside(box, y, x)).to(share.dtype), share)
    return share.expand(sample.shape[0], y.shape[1], x.shape[1])[:, None, :, :, None]


def mixed(own: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Blend of two sets of values; a share of exactly 0 or 1 copies one of them."""
    share = share.to(own.dtype)
    return share * own + (1 - share) * partner
