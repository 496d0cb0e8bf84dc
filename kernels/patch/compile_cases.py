"""Calls that reach every tile of the patch-embedding kernels, with their arithmetic and least traffic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.launch import CompileCase, Work
from kernels.patch.triton_embed import Scene, embed, embed_gradients

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_COLUMNS = 768
_SAMPLES = 192


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shape:
    """What a case varies: frames, wanted tokens, patch size, and what happens to the pixels."""

    tokens: int
    frames: int = 16
    patch_size: int = 16
    erasing: bool = False
    noise: bool = False
    mixing: bool = False
    boxes: bool = False

    @property
    def frames_per_token(self) -> int:
        """A still image has one frame, a clip's tubelet two."""
        return min(self.frames, 2)

    @property
    def values(self) -> int:
        """Values of a tubelet, K."""
        return self.frames_per_token * self.patch_size**2 * 3


# 10 tokens of an image and 40 of a clip are visible in pre-training, all of them when augmented.
_SHAPES = {
    "images": _Shape(tokens=1920, frames=1),
    "clips": _Shape(tokens=7680),
    "few clips": _Shape(tokens=640),
    "patches of 14": _Shape(tokens=7680, patch_size=14),
    "images, black box and mixup": _Shape(tokens=1600, frames=1, erasing=True, mixing=True),
    "clips, black box and mixup": _Shape(tokens=12800, erasing=True, mixing=True),
    "images, noise box and cutmix": _Shape(tokens=1600, frames=1, erasing=True, noise=True, mixing=True, boxes=True),
    "clips, noise box and cutmix": _Shape(tokens=12800, erasing=True, noise=True, mixing=True, boxes=True),
}


def _scene(shape: _Shape) -> Scene:
    def meta(*size: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.empty(*size, dtype=dtype, device="meta")

    side = 10 * shape.patch_size
    return Scene(
        pixels=meta(_SAMPLES, shape.frames, side, side, 3, dtype=torch.uint8),
        indices=meta(shape.tokens),
        mean=meta(3, dtype=torch.float32),
        std=meta(3, dtype=torch.float32),
        erase_box=meta(_SAMPLES, 4, dtype=torch.int32) if shape.erasing else None,
        erase_seed=meta(_SAMPLES) if shape.erasing else None,
        partner=meta(_SAMPLES) if shape.mixing else None,
        lam=meta(_SAMPLES, dtype=torch.float32) if shape.mixing else None,
        mix_box=meta(_SAMPLES, 4, dtype=torch.int32) if shape.boxes else None,
        noise=shape.noise,
        patch_size=shape.patch_size,
        frames_per_token=shape.frames_per_token,
    )


def _run(shape: _Shape, dtype: torch.dtype) -> None:
    scene = _scene(shape)
    weight = torch.empty(_COLUMNS, 3, 2, shape.patch_size, shape.patch_size, dtype=dtype, device="meta")
    output = embed(scene, weight, weight.new_empty(_COLUMNS))
    embed_gradients(scene, torch.empty_like(output), 2)


def _work(shape: _Shape, dtype: torch.dtype) -> dict[str, Work]:
    weights = shape.values * _COLUMNS
    flops = 2.0 * shape.tokens * weights
    pixels = shape.tokens * shape.values * (2 if shape.mixing else 1)
    rows = shape.tokens * _COLUMNS * dtype.itemsize
    slices = 2 // shape.frames_per_token
    return {
        "patch_embed_kernel": Work(flops=flops, bytes=pixels + rows + weights * dtype.itemsize),
        "patch_gradient_kernel": Work(flops=flops, bytes=pixels + rows + weights * 4),
        "patch_gradient_sum_kernel": Work(flops=weights, bytes=weights * (4 + slices * dtype.itemsize)),
    }


def cases() -> Iterator[CompileCase]:
    """Images and clips, plain and augmented, in each dtype."""
    for dtype in _DTYPES:
        for name, shape in _SHAPES.items():
            yield CompileCase(
                name=f"{name}, {str(dtype).removeprefix('torch.')}",
                dtype=dtype,
                run=partial(_run, shape, dtype),
                work=_work(shape, dtype),
            )
