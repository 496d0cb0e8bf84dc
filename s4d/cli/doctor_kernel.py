"""The smallest Triton kernel, for `s4d doctor` to compile. Triton reads its source from this file."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton.compiler import ASTSource

BLOCK = 64


@triton.jit
def copy(source, target, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < count
    tl.store(target + offsets, tl.load(source + offsets, mask=inside), mask=inside)


def compile_copy(target: Any) -> int:
    """Bytes of machine code for a GPU `target`, which need not be there."""
    signature = {"source": "*fp32", "target": "*fp32", "count": "i32", "BLOCK": "constexpr"}
    built = triton.compile(ASTSource(copy, signature, {(3,): BLOCK}), target=target)
    return len(built.asm["cubin"])
