"""bf16 matrix products on a CPU for which oneDNN has none, such as one with AVX2 alone: by fp32 products.

There torch falls back to loops that are far slower. Sums are fp32 and the result is rounded once, as by
processors with bf16 instructions.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, get_kernel

OPS = ("mm", "addmm", "bmm", "baddbmm")


def are_missing() -> bool:
    """Whether torch multiplies bf16 matrices on this CPU without oneDNN."""
    return not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@functools.cache
def widen_products() -> Library:
    """From now on products of bf16 matrices on the CPU are computed in fp32, in all of this process.

    Returns what keeps it so. Products of other types, and autograd with the tensors it saves, stay as they are.
    """
    library = Library("aten", "IMPL")
    with warnings.catch_warnings():
        # Torch warns that it had kernels for these: they still do the work.
        warnings.simplefilter("ignore")
        for name in OPS:
            for overload in (name, f"{name}.out"):
                library.impl(overload, _widened(name, get_kernel(f"aten::{overload}", "CPU")), "CPU", with_keyset=True)
    return library


def _widened(name: str, kernel: Any) -> Any:
    product = getattr(torch, name)

    def call(keys: Any, *operands: Any, out: Tensor | None = None, **options: Any) -> Tensor:
        given = {} if out is None else {"out": out}
        if any(tensor.dtype != torch.bfloat16 for tensor in (*operands, *given.values())):
            plain: Tensor = kernel.call_boxed(keys, *operands, **options, **given)
            return plain
        found: Tensor = product(*(tensor.float() for tensor in operands), **options)
        if out is None:
            return found.to(torch.bfloat16)
        return out.resize_(found.shape).copy_(found)

    return call
