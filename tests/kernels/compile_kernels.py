"""Small Triton kernels for the offline compiler checks, one per verdict. As a script: what is found, as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.bench.compile import compile_jobs
from kernels.bench.compile_jobs import collect
from kernels.launch import CompileCase, Work, launch


@triton.jit
def product(
    left, right, out, M, N, K, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, IEEE: tl.constexpr
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, K, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        a = tl.load(left + rows[:, None] * K + depth[None, :], mask=rows[:, None] < M, other=0.0)
        b = tl.load(right + depth[:, None] * N + columns[None, :], mask=columns[None, :] < N, other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee" if IEEE else "tf32")
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(out + rows[:, None] * N + columns[None, :], total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def multiply_by_hand(left, right, out, K, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k in range(K):
        total += tl.load(left + rows * K + k)[:, None].to(tl.float32) * tl.load(right + k * COLUMNS + columns)[None, :]
    tl.store(out + rows[:, None] * COLUMNS + columns[None, :], total)


@triton.jit
def axpy(x, y, scale, count, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    tl.store(y + index, scale * tl.load(x + index, mask=inside).to(tl.float32), mask=inside)


def start_product(
    dtype: torch.dtype, size: tuple[int, int, int], tile: tuple[int, int, int], warps: int, **constants: object
) -> Tensor:
    rows, columns, depth = size
    left, right = (torch.empty(shape, dtype=dtype, device="meta") for shape in ((rows, depth), (depth, columns)))
    out = torch.empty(rows, columns, dtype=dtype, device="meta")
    launch(
        product,
        (triton.cdiv(rows, tile[0]), triton.cdiv(columns, tile[1])),
        *(left, right, out, rows, columns, depth),
        num_warps=warps,
        num_stages=3,
        ROWS=tile[0],
        COLUMNS=tile[1],
        DEPTH=tile[2],
        **{"IEEE": dtype == torch.float32, **constants},
    )
    return out


def start_axpy(count: int, scale: float, offset: int = 0) -> Tensor:
    x = torch.empty(count + offset, dtype=torch.bfloat16, device="meta")[offset:]
    y = torch.empty(count, device="meta")
    launch(axpy, (triton.cdiv(count, 1024),), x, y, scale, count, BLOCK=1024)
    return y


def start_by_hand() -> None:
    left, right, out = (torch.empty(64, 64, device="meta", dtype=torch.float16) for _ in range(3))
    launch(multiply_by_hand, (1,), left, right, out, 64, ROWS=64, COLUMNS=64)


def case(name: str, dtype: torch.dtype, run: Callable[[], object]) -> CompileCase:
    return CompileCase(name=name, dtype=dtype, run=run, work={"product": Work(flops=2.0 * 512**3, bytes=3.0 * 512**2)})


def cases() -> Iterator[CompileCase]:
    """One case per verdict; the first word says which."""
    size = (512, 512, 512)
    half, full = torch.bfloat16, torch.float32
    yield case("good half", half, lambda: start_product(half, size, (64, 64, 32), 4))
    yield case("good half again", half, lambda: start_product(half, (1024, 512, 512), (64, 64, 32), 4))
    yield case("good float32", full, lambda: start_product(full, size, (32, 32, 16), 4))
    yield case("spills", full, lambda: start_product(full, size, (32, 32, 16), 4, maxnreg=24))
    yield case("rounded", full, lambda: start_product(full, size, (32, 32, 16), 4, IEEE=False))
    yield case("rows missing", half, lambda: start_product(half, size, (16, 64, 32), 4))
    yield case("shared memory", half, lambda: start_product(half, size, (128, 256, 128), 8))
    yield case("does not compile", half, lambda: start_product(half, size, (64, 48, 32), 4))
    yield case("no product", half, lambda: start_axpy(4096, 0.5))
    yield case("by hand", torch.float16, start_by_hand)


def specialisations() -> list[tuple[dict[str, str], list[str]]]:
    """Types, and arguments known to be divisible by 16, of launches that differ in their values alone."""
    runs = [
        lambda: start_axpy(4096, 0.5),
        lambda: start_axpy(1, 0.5),
        lambda: start_axpy(4095, 0.5, offset=4),
        lambda: start_axpy(2**32, 1.0, offset=8),
        lambda: start_axpy(4096, 2.5),
    ]
    found = []
    for job in collect("planted", [case("any", torch.bfloat16, run) for run in runs], 90):
        names = job.kernel.arg_names
        found.append((dict(job.signature), [names[path[0]] for path, known in job.attributes.items() if known]))
    return found


def main(arguments: list[str]) -> None:
    """Compile the cases for every ``architecture:first word`` of ``arguments`` and print all that was found."""
    jobs = []
    for argument in arguments:
        architecture, _, word = argument.partition(":")
        jobs += collect("planted", (each for each in cases() if each.name.startswith(word)), int(architecture))
    rows = compile_jobs(jobs, processes=2)
    print(json.dumps({"rows": [row.as_dict() for row in rows], "specialisations": specialisations()}))


if __name__ == "__main__":
    main(sys.argv[1:])
