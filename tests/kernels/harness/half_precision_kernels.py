"""Two kernels that add up squares: one casts what it loads, the other calculates in half precision."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def careful(values, result, n: tl.constexpr):
    """The sum in float32."""
    loaded = tl.load(values + tl.arange(0, n)).to(tl.float32)
    tl.store(result, tl.sum(loaded * loaded, 0))


@triton.jit
def careless(values, result, n: tl.constexpr):
    """The sum as it must not be."""
    loaded = tl.load(values + tl.arange(0, n))
    tl.store(result, tl.sum(loaded * loaded, 0).to(tl.float32))
