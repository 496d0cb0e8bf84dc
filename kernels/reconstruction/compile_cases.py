"""Calls that reach every tile of the reconstruction kernels, with their arithmetic and least traffic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.launch import CompileCase, Work
from kernels.reconstruction.triton_backward import head_gradients, hidden_gradient
from kernels.reconstruction.triton_forward import residual_and_loss

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_SAMPLES = 192


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shape:
    """What a case varies: masked tokens, width of the decoder, frames, patch size, and whether a backward follows."""

    tokens: int
    dim: int
    frames: int = 16
    patch_size: int = 16
    training: bool = True

    @property
    def values(self) -> int:
        """Values of a tubelet of two frames, V."""
        return 2 * self.patch_size**2 * 3


# 760 tokens of a clip and 90 of an image are masked in pre-training.
_SHAPES = {
    "clips, 192": _Shape(tokens=145920, dim=192),
    "clips, 384": _Shape(tokens=145920, dim=384),
    "clips, 512": _Shape(tokens=145920, dim=512),
    "images, 384": _Shape(tokens=17280, dim=384, frames=1),
    "clips, 384, loss alone": _Shape(tokens=145920, dim=384, training=False),
    "patches of 14, 384": _Shape(tokens=145920, dim=384, patch_size=14),
    "patches of 14, 200": _Shape(tokens=145920, dim=200, patch_size=14),
}


def _run(shape: _Shape, dtype: torch.dtype) -> None:
    def meta(*size: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(*size, dtype=dtype, device="meta")

    side = 10 * shape.patch_size
    hidden, weight, bias = meta(shape.tokens, shape.dim), meta(shape.values, shape.dim), meta(shape.values)
    pixels = meta(_SAMPLES, shape.frames, side, side, 3, dtype=torch.uint8)
    indices = meta(shape.tokens, dtype=torch.int64)
    loss, residual = residual_and_loss(hidden, weight, bias, pixels, indices, 2, keep=shape.training)
    if shape.training:
        hidden_gradient(residual, weight, loss)
        head_gradients(residual, hidden, loss)


def _work(shape: _Shape, dtype: torch.dtype) -> dict[str, Work]:
    weights = shape.values * shape.dim
    flops = 2.0 * shape.tokens * weights
    residual, rows = (shape.tokens * columns * dtype.itemsize for columns in (shape.values, shape.dim))
    pixels = shape.tokens * shape.values * min(shape.frames, 2) // 2
    kept = residual if shape.training else 0
    forward = Work(flops=flops, bytes=rows + weights * dtype.itemsize + pixels + kept)
    return {
        "reconstruction_residual_kernel": forward,
        "reconstruction_sum_kernel": Work(flops=shape.tokens / 64, bytes=shape.tokens / 16),
        "reconstruction_hidden_gradient_kernel": Work(flops=flops, bytes=residual + rows + weights * dtype.itemsize),
        "reconstruction_head_gradient_kernel": Work(flops=flops, bytes=residual + rows + weights * 4),
        "reconstruction_head_sum_kernel": Work(flops=weights, bytes=weights * (4 + dtype.itemsize)),
    }


def cases() -> Iterator[CompileCase]:
    """Clips and images over the widths of the decoders, in each dtype."""
    for dtype in _DTYPES:
        for name, shape in _SHAPES.items():
            yield CompileCase(
                name=f"{name}, {str(dtype).removeprefix('torch.')}",
                dtype=dtype,
                run=partial(_run, shape, dtype),
                work=_work(shape, dtype),
            )
