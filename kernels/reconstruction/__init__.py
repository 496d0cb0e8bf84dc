"""Masked reconstruction: pixel head and loss over the tokens to predict, against per-token normalised pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.backends import Backend, Facts, resolve
from kernels.launch import is_interpreted, triton_refuses
from kernels.native import status as native_status
from kernels.reconstruction.target import patch_targets, target_request

__all__ = ["BACKENDS", "masked_loss", "patch_targets"]


def _needs_pixel_gradient(facts: Facts) -> str | None:
    return "gives no gradient to pixels" if facts["pixel_gradient"] else None


def _triton_refuses(facts: Facts) -> str | None:
    if facts["pixels"] != torch.uint8:
        return f"reads uint8 pixels, not {facts['pixels']}"
    if facts["dtype"] not in (torch.float32, torch.float16, torch.bfloat16):
        return f"computes in float32, float16 and bfloat16, not {facts['dtype']}"
    reason = _needs_pixel_gradient(facts) or triton_refuses(facts)
    if reason is None and facts["dtype"] == torch.bfloat16 and is_interpreted():
        return "Triton's interpreter multiplies bfloat16 wrongly"
    return reason


def _native_refuses(facts: Facts) -> str | None:
    if facts["device"] != "cpu":
        return f"serves CPU tensors, not {facts['device']}"
    if facts["pixels"] != torch.uint8:
        return f"reads uint8 pixels, not {facts['pixels']}"
    available, reason = native_status()
    return None if available else reason


# In order of preference on CPUs, by `s4d bench reconstruction --device cpu`.
BACKENDS = {
    "native": Backend(name="native", function="kernels.reconstruction.native:masked_loss", refuse=_native_refuses),
    "fused": Backend(name="fused", function="kernels.reconstruction.fused:masked_loss", refuse=_needs_pixel_gradient),
    "reference": Backend(name="reference", function="kernels.reconstruction.reference:masked_loss"),
    "triton": Backend(name="triton", function="kernels.reconstruction.triton_op:masked_loss", refuse=_triton_refuses),
}
_ON_CUDA = {"triton": BACKENDS["triton"], **BACKENDS}


def candidates(
    *, device: str, dtype: torch.dtype, pixels: torch.dtype, pixel_gradient: bool
) -> tuple[dict[str, Backend], dict[str, object]]:
    """Rows for such a call in order of preference, and the facts that they may refuse."""
    facts = {"device": device, "dtype": dtype, "pixels": pixels, "pixel_gradient": pixel_gradient}
    return _ON_CUDA if device == "cuda" else BACKENDS, facts


def masked_loss(
    hidden: Tensor,
    head_weight: Tensor,
    head_bias: Tensor,
    pixels: Tensor,
    indices: Tensor,
    *,
    tubelet_size: int = 2,
    backend: str | None = None,
) -> tuple[Tensor, int]:
    """Sum over the M tokens ``indices`` of the mean squared error of their predicted pixels, and the count M.

    ``hidden`` (M, D); ``head_weight`` (tubelet_size * p * p * 3, D) and ``head_bias`` give the prediction, from which
    the patch size p follows; pixels and target as in ``patch_targets``. The sum is float32 (float64 for float64
    hidden). Raises ValueError on shapes that do not fit and on a backend that cannot serve the call.
    """
    if hidden.ndim != 2 or hidden.shape[0] != indices.shape[0]:
        raise ValueError(f"hidden: expected ({indices.shape[0]}, D), got {tuple(hidden.shape)}")
    values = head_weight.shape[0]
    patch_size = math.isqrt(values // (3 * tubelet_size))
    if head_weight.shape[1:] != hidden.shape[1:] or 3 * tubelet_size * patch_size**2 != values:
        raise ValueError(
            f"head_weight: expected ({tubelet_size} * p * p * 3, {hidden.shape[1]}), got {tuple(head_weight.shape)}"
        )
    if head_bias.shape != (values,):
        raise ValueError(f"head_bias: expected ({values},), got {tuple(head_bias.shape)}")
    if not hidden.dtype == head_weight.dtype == head_bias.dtype:
        dtypes = f"{hidden.dtype}, {head_weight.dtype}, {head_bias.dtype}"
        raise ValueError(f"hidden, head_weight, head_bias: expected one dtype, got {dtypes}")
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    request = target_request(pixels, indices, patch_size, tubelet_size, dtype)
    table, facts = candidates(
        device=hidden.device.type,
        dtype=hidden.dtype,
        pixels=pixels.dtype,
        pixel_gradient=pixels.requires_grad,
    )
    row = resolve("reconstruction", table, backend, **facts)
    total: Tensor = row.load()(hidden, head_weight, head_bias, request)
    return total, indices.shape[0]
