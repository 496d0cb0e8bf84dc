"""Calls that reach every tile of the MoAE kernels, with their arithmetic and least traffic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.launch import CompileCase, Work
from kernels.moae.triton_op import Kept, Outputs, Settings, backward, forward
from kernels.moae.triton_plan import count_and_plan

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_WIDTH = 768


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shape:
    """What a case varies; ``noise`` is none, values or key."""

    tokens: int
    num_experts: int = 8
    top_k: int = 2
    hidden: int = 192
    width: int = _WIDTH
    noise: str = "key"
    capacity: int = -1
    residual: bool = True
    plain: bool = False

    @property
    def assignments(self) -> int:
        """R."""
        return self.tokens * self.top_k


_SHAPES = {
    "few tokens": _Shape(tokens=1600),
    "some tokens": _Shape(tokens=6400, capacity=1600),
    "many tokens": _Shape(tokens=12800),
    "evaluation": _Shape(tokens=12800, noise="none", residual=False, plain=True),
    "noise values, 16 experts": _Shape(tokens=12800, num_experts=16, noise="values"),
    "24 experts without noise": _Shape(tokens=12800, num_experts=24, noise="none"),
    "64 experts": _Shape(tokens=12800, num_experts=64, top_k=4),
    "160 experts": _Shape(tokens=12800, num_experts=160, top_k=6),
    "wide hidden layer": _Shape(tokens=12800, hidden=768),
    "ViT-S": _Shape(tokens=12800, width=384, hidden=96),
    "ViT-L, few tokens": _Shape(tokens=1600, width=1024, hidden=256),
    "ViT-L": _Shape(tokens=12800, width=1024, hidden=256),
    "odd widths": _Shape(tokens=3200, width=388, hidden=97, num_experts=5, top_k=3),
}


def _meta(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*size, dtype=dtype, device="meta")


def _run(shape: _Shape, dtype: torch.dtype) -> None:
    t, d, e, h = shape.tokens, shape.width, shape.num_experts, shape.hidden
    x = _meta(t, d, dtype=dtype)
    router = [_meta(e, d), _meta(e)] * (1 if shape.noise == "none" else 2)
    noise = {
        "none": [],
        "values": [_meta(t, e)],
        "key": [_meta(size, dtype=torch.int64) for size in (1, t, t)],
    }[shape.noise]
    experts = [_meta(*size, dtype=dtype) for size in ((e, h, d), (e, h), (e, d, h), (e, d))]
    settings = Settings(top_k=shape.top_k, capacity=shape.capacity, groups=(0, t // 2, t)).flat()
    found = Outputs(*forward(x, router, experts, noise, _meta(t, d, dtype=dtype) if shape.residual else None, settings))
    others = (found.logits, found.gates, found.prob_sums)
    grads = [found.output, *((None,) * 3 if shape.plain else others)]
    backward(grads, x, router, experts, [getattr(found, name) for name in Kept._fields], settings)
    count_and_plan(found.ids, e, None)


def _work(shape: _Shape, dtype: torch.dtype) -> dict[str, Work]:
    tokens, rows = shape.tokens * shape.width * dtype.itemsize, shape.assignments * shape.width * dtype.itemsize
    middle = shape.assignments * shape.hidden * dtype.itemsize
    weights = shape.num_experts * shape.width * shape.hidden * dtype.itemsize
    maps = shape.num_experts * (1 if shape.noise == "none" else 2)
    scores = shape.tokens * maps * 4
    # One product of all the routed rows with one of the two layers.
    product = 2.0 * shape.assignments * shape.width * shape.hidden
    projection = 2.0 * shape.tokens * shape.width * maps
    router = maps * shape.width * 4
    index = shape.assignments * 8
    return {
        "router_forward_kernel": Work(flops=projection, bytes=tokens + router + scores + 1.5 * index),
        "count_kernel": Work(flops=0.0, bytes=index),
        "plan_kernel": Work(flops=0.0, bytes=3 * index + shape.assignments),
        "_forward_kernel": Work(flops=2 * product, bytes=tokens + rows + middle + 2 * weights),
        "_combine_kernel": Work(flops=shape.top_k * rows / dtype.itemsize, bytes=rows + 2 * tokens),
        "_backward_kernel": Work(flops=2 * product, bytes=tokens + rows + 2 * middle + 2 * weights),
        "_weight_gradient_kernel": Work(flops=2 * product, bytes=2 * tokens + 2 * middle + 2 * weights),
        "router_backward_kernel": Work(flops=2 * projection, bytes=rows + 2 * tokens + router + scores + 2 * index),
        "router_weights_kernel": Work(flops=0.0, bytes=2.0 * router),
    }


def cases() -> Iterator[CompileCase]:
    """Sizes on either side of every border of the tables, in each dtype."""
    for dtype in _DTYPES:
        for name, shape in _SHAPES.items():
            yield CompileCase(
                name=f"{name}, {str(dtype).removeprefix('torch.')}",
                dtype=dtype,
                run=partial(_run, shape, dtype),
                work=_work(shape, dtype),
            )
