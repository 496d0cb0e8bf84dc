"""CPU backend: the native library gathers, normalises, erases and mixes in one pass over the wanted pixels."""

from __future__ import annotations

from torch import Tensor

from kernels.native.ops import visible_patches
from kernels.patch.gather import embed_rows
from kernels.patch.request import PatchRequest


def native_rows(request: PatchRequest) -> Tensor:
    """Normalised, erased and mixed values of the wanted tokens, (M, 3 * f * p * p)."""
    grid, mix, erase = request.grid, request.mix, request.erase
    erased = [] if erase is None else [erase.box, erase.seed] if erase.noise else [erase.box]
    mixed = [] if mix is None else [mix.partner, mix.lam] if mix.box is None else [mix.partner, mix.lam, mix.box]
    rows: Tensor = visible_patches(
        request.pixels,
        request.indices,
        request.mean,
        request.std,
        erased,
        mixed,
        patch_size=grid.patch_size,
        frames_per_token=grid.frames_per_token,
    )
    return rows


def embed_visible(request: PatchRequest, weight: Tensor, bias: Tensor) -> Tensor:
    """Embed the wanted tokens, (M, D)."""
    return embed_rows(request, weight, bias, native_rows)
