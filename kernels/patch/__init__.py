"""Patch embedding of visible tokens, straight from uint8 pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.backends import Backend, Facts, resolve
from kernels.launch import is_interpreted, triton_refuses
from kernels.native import status as native_status
from kernels.patch.records import Erase, Mix
from kernels.patch.request import PatchRequest
from kernels.patch.tubelets import check_indices, token_grid

__all__ = ["BACKENDS", "Erase", "Mix", "embed_visible"]


def _needs_pixel_gradient(facts: Facts) -> str | None:
    return "gives no gradient to pixels" if facts["pixel_gradient"] else None


def _native_refuses(facts: Facts) -> str | None:
    if facts["device"] != "cpu":
        return f"serves CPU tensors, not {facts['device']}"
    if facts["pixels"] != torch.uint8:
        return f"reads uint8 pixels, not {facts['pixels']}"
    if facts["dtype"] == torch.float64:
        return "computes pixels in float32, too coarse for float64 weights"
    available, reason = native_status()
    return None if available else reason


def _triton_refuses(facts: Facts) -> str | None:
    if facts["pixels"] != torch.uint8:
        return f"reads uint8 pixels, not {facts['pixels']}"
    if facts["dtype"] not in (torch.float32, torch.float16, torch.bfloat16):
        return f"computes in float32, float16 and bfloat16, not {facts['dtype']}"
    reason = _needs_pixel_gradient(facts) or triton_refuses(facts)
    if reason is None and facts["dtype"] == torch.bfloat16 and is_interpreted():
        return "Triton's interpreter multiplies bfloat16 wrongly"
    return reason


# In order of preference on CPUs, by `s4d bench patch --device cpu`. `gather` ties with `native` where few tokens are
# wanted, and takes ten times as long where noise is drawn for every token.
BACKENDS = {
    "native": Backend(name="native", function="kernels.patch.native:embed_visible", refuse=_native_refuses),
    "gather": Backend(name="gather", function="kernels.patch.gather:embed_visible", refuse=_needs_pixel_gradient),
    "reference": Backend(name="reference", function="kernels.patch.reference:embed_visible"),
    "triton": Backend(name="triton", function="kernels.patch.triton_op:embed_visible", refuse=_triton_refuses),
}
_ON_CUDA = {"triton": BACKENDS["triton"], **BACKENDS}


def candidates(
    *, device: str, dtype: torch.dtype, pixels: torch.dtype, pixel_gradient: bool
) -> tuple[dict[str, Backend], dict[str, object]]:
    """Rows for such a call in order of preference, and the facts that they may refuse."""
    facts = {"device": device, "dtype": dtype, "pixels": pixels, "pixel_gradient": pixel_gradient}
    return _ON_CUDA if device == "cuda" else BACKENDS, facts


def embed_visible(
    pixels: Tensor,
    indices: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    std: Tensor,
    *,
    mix: Mix | None = None,
    erase: Erase | None = None,
    backend: str | None = None,
) -> Tensor:
    """Embed the tokens ``indices`` (M,) int64 of ``pixels`` (n, F, H, W, 3), giving (M, D) in the dtype of ``weight``.

    uint8 pixels are normalised by ``mean`` and ``std`` (3,) in units of [0, 1]; floating-point pixels are taken as
    normalised. Then boxes are erased, then samples mixed (a partner comes with its own erased box). ``weight`` is
    (D, 3, tubelet, p, p) as in Conv3d, ``bias`` (D,). F is 1 (a still image, worth a tubelet of equal frames) or a
    multiple of the tubelet. Raises ValueError on shapes that do not fit and on a backend that cannot serve the call.
    """
    check_indices(indices)
    if weight.ndim != 5 or weight.shape[1] != 3 or weight.shape[3] != weight.shape[4]:
        raise ValueError(f"weight: expected (D, 3, tubelet, p, p), got {tuple(weight.shape)}")
    if bias.shape != weight.shape[:1] or bias.dtype != weight.dtype:
        raise ValueError(f"bias: expected {weight.dtype} ({weight.shape[0]},), got {bias.dtype} {tuple(bias.shape)}")
    for name, value in (("mean", mean), ("std", std)):
        if value.shape != (3,):
            raise ValueError(f"{name}: expected (3,), got {tuple(value.shape)}")
    grid = token_grid(pixels, weight.shape[3], weight.shape[2])
    for record in (mix.partner if mix is not None else None, erase.seed if erase is not None else None):
        if record is not None and record.shape != (grid.samples,):
            raise ValueError(f"mix and erase: expected one entry for each of {grid.samples} samples, got {len(record)}")
    request = PatchRequest(
        pixels=pixels,
        indices=indices,
        mean=mean,
        std=std,
        grid=grid,
        compute_dtype=torch.float64 if weight.dtype == torch.float64 else torch.float32,
        mix=mix,
        erase=erase,
    )
    table, facts = candidates(
        device=pixels.device.type,
        dtype=weight.dtype,
        pixels=pixels.dtype,
        pixel_gradient=pixels.requires_grad,
    )
    row = resolve("patch", table, backend, **facts)
    output: Tensor = row.load()(request, weight, bias)
    return output
