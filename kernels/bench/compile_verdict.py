"""What is wrong with a compiled kernel: spills, memory that does not fit, products that miss the tensor cores."""

from __future__ import annotations

import re
from collections import Counter

from kernels.bench.compile_limits import LIMITS, TENSOR_COLUMNS
from kernels.bench.sass import Cubin

# Operations of Triton's GPU dialect that multiply matrices, by the name used here.
_PRODUCTS = {"ttng.warp_group_dot": "wgmma", "ttng.tc_gen5_mma": "tcgen05", "tt.dot": "mma"}
_ELEMENT = re.compile(r"(?:memdesc|tensor)<[\dx]+x([a-z]+\d+)[,>]")
_RESULT_LAYOUT = re.compile(r"-> tensor<[^,]+, #(\w+)")
_HALF = {"f16", "bf16"}


def half_products(ttgir: str) -> dict[str, int]:
    """How the products of fp16 or bf16 operands are done: counts of wgmma, tcgen05, mma, and fma (no tensor core)."""
    return _products(ttgir, _HALF)


def rounds_float32(ttgir: str) -> bool:
    """Whether a product of float32 operands is done on tensor cores, which take them as TF32.

    For sm_100 Triton 3.7 does so with 64 rows or more even where "ieee" was asked for.
    """
    return any(kind != "fma" for kind in _products(ttgir, {"f32"}))


def _products(ttgir: str, operands: set[str]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for line in ttgir.splitlines():
        kind = next((kind for name, kind in _PRODUCTS.items() if f"{name} " in line), None)
        elements = _ELEMENT.findall(line)
        if kind is None or not elements or elements[0] not in operands:
            continue
        layout = _RESULT_LAYOUT.search(line)
        if kind == "mma" and layout is not None and not layout[1].startswith("mma"):
            kind = "fma"
        found[kind] += 1
    return dict(found)


def failures(
    architecture: int, cubin: Cubin, *, shared: int, tensor_columns: int, products: dict[str, int], tf32: bool
) -> tuple[str, ...]:
    """Reasons why a compiled kernel may not be used on ``architecture``; empty if it may."""
    limits = LIMITS[architecture]
    found = []
    if cubin.loads or cubin.stores:
        found.append(f"spills: {cubin.loads} LDL, {cubin.stores} STL")
    if cubin.stack:
        found.append(f"{cubin.stack} bytes of stack")
    if shared > limits.block_shared:
        found.append(f"shared memory: {shared} bytes, a block has {limits.block_shared}")
    if tensor_columns > TENSOR_COLUMNS:
        found.append(f"tensor memory: {tensor_columns} columns of {TENSOR_COLUMNS}")
    missed = {kind: count for kind, count in products.items() if kind != limits.product}
    if missed:
        kinds = ", ".join(f"{count} as {kind}" for kind, count in missed.items())
        found.append(f"half-precision products: {kinds}, expected {limits.product} ({limits.matrix})")
    elif products and not cubin.matrix.get(limits.matrix):
        found.append(f"half-precision products, but no {limits.matrix} in the SASS")
    if tf32:
        found.append("float32 product in TF32: expected 'ieee', on sm_100 with fewer than 64 rows")
    return tuple(found)
