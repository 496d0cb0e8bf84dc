"""CPU backend: the native library gathers, normalises, erases and mixes in one pass over the wanted pixels."""

from __future__ import annotations

from torch import Tensor

from kernels.native.ops import visible_patches
from kernels.patch.gather import embed_rows
from kernels.patch.request import PatchRequest


def native_rows(request: PatchRequest) -> Tensor:
    """Normalised, erased and mixed values of the wanted tokens, (M, f * p * p * 3)."""
    grid, mix, erase = request.grid, request.mix, request.erase
    rows: Tensor = visible_patches(
        request.pixels,
        request.indices,
        request.mean,
        request.std,
        patch_size=grid.patch_size,
        frames_per_token=grid.frames_per_token,
        erase_box=None if erase is None else erase.box,
        erase_seed=erase.seed if erase is not None and erase.noise else None,
        partner=None if mix is None else mix.partner,
        share=None if mix is None else mix.lam,
        mix_box=None if mix is None else mix.box,
    )
    return rows


def embed_visible(request: PatchRequest, weight: Tensor, bias: Tensor) -> Tensor:
    """Embed the wanted tokens, (M, D)."""
    return embed_rows(request, weight, bias, native_rows)
