"""Offline compiler checks: every kernel at every tile its launchers can choose, built and disassembled without a GPU.

An op states in ``cases()`` of its modules ``*compile_cases`` the calls that reach every tile. Each distinct launch they
record is compiled as a real launch on that architecture would be, and its machine code is held against the limits.
"""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernels.bench.compile_jobs import Job, collect, target_of
from kernels.bench.compile_limits import LIMITS, blocks_per_multiprocessor, own_shared
from kernels.bench.compile_pool import Broken, run_forked
from kernels.bench.compile_verdict import failures, half_products, rounds_float32
from kernels.bench.sass import read_cubin
from kernels.launch import CompileCase

OPS = ("attention", "moae", "patch", "reconstruction")
ARCHITECTURES = (80, 90, 100)
_DUMPED = ("cubin", "ttir", "ttgir", "ptx")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One compiled kernel beside what the analytic model says of it; ``failures`` is empty if it may be used.

    ``shared`` is in bytes, ``blocks`` the number a multiprocessor holds at once, ``matrix`` the matrix instructions,
    ``products`` the half-precision products by kind. ``fits_99k``: its shared memory also fits sm_86 and sm_89.
    ``flops`` and ``bytes`` are those of the first case. A kernel that did not compile has only its name and failure.
    """

    op: str
    kernel: str
    architecture: str
    dtype: str
    tile: str
    cases: tuple[str, ...]
    grid: tuple[int, ...]
    failures: tuple[str, ...]
    flops: float | None = None
    bytes: float | None = None
    registers: int = 0
    shared: int = 0
    fits_99k: bool = False
    tensor_columns: int = 0
    stack: int = 0
    loads: int = 0
    stores: int = 0
    instructions: int = 0
    matrix: Mapping[str, int] | None = None
    products: Mapping[str, int] | None = None
    blocks: int = 0
    occupancy: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The row for a JSON document."""
        return asdict(self)


def compile_cases(op: str) -> list[CompileCase]:
    """The compile cases of ``op``; raises ValueError if it has none."""
    folder = Path(__file__).parents[1] / op
    names = sorted(f"kernels.{op}.{path.stem}" for path in folder.glob("*compile_cases.py"))
    if not names:
        raise ValueError(f"{op}: no module {folder}/*compile_cases.py")
    return [case for name in names for case in importlib.import_module(name).cases()]


def collect_jobs(
    ops: Sequence[str], architectures: Sequence[int], select: Callable[[CompileCase], bool] = lambda case: True
) -> list[Job]:
    """Jobs of the selected compile cases of ``ops`` for every architecture."""
    return [
        job
        for op in ops
        for architecture in architectures
        for job in collect(op, filter(select, compile_cases(op)), architecture)
    ]


def compile_jobs(
    jobs: Sequence[Job], *, processes: int = 1, dump: Path | None = None, report: Callable[[Row], object] | None = None
) -> list[Row]:
    """Compile and judge ``jobs``, one process each, into rows of the same order; ``dump`` keeps cubins and SASS there.

    ``report`` is called with every row as it is finished. Compiles afresh unless TRITON_CACHE_DIR names a cache to use.
    """
    if dump is not None:
        dump.mkdir(parents=True, exist_ok=True)
    own_cache = None if os.environ.get("TRITON_CACHE_DIR") else tempfile.mkdtemp(prefix="s4d-compile-")
    rows: dict[int, Row] = {}
    try:
        build = functools.partial(_build, cache=own_cache, dump=dump)
        for index, result in run_forked(build, jobs, processes=processes):
            broken = isinstance(result, Broken)
            rows[index] = _row(jobs[index], failures=(f"does not compile: {result.reason}",)) if broken else result
            if report is not None:
                report(rows[index])
    finally:
        if own_cache is not None:
            shutil.rmtree(own_cache, ignore_errors=True)
    return [rows[index] for index in range(len(jobs))]


def _row(job: Job, **measured: Any) -> Row:
    return Row(
        op=job.op,
        kernel=job.kernel_name,
        architecture=f"sm_{job.architecture}",
        dtype=str(job.dtype).removeprefix("torch."),
        tile=job.tile,
        cases=job.cases,
        grid=job.grid,
        flops=None if job.work is None else job.work.flops,
        bytes=None if job.work is None else job.work.bytes,
        **measured,
    )


def _build(job: Job, *, cache: str | None, dump: Path | None) -> Row:
    """Compile one job in this process; raises what the compiler raises."""
    if cache is not None:
        os.environ["TRITON_CACHE_DIR"] = cache
    import triton
    from triton.compiler import ASTSource

    source = ASTSource(job.kernel, dict(job.signature), dict(job.constants), dict(job.attributes))
    built = triton.compile(source, target=target_of(job.architecture), options=dict(job.options.__dict__))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        cubin = read_cubin(Path(file.name))
    if dump is not None:
        _dump(dump, job, {**{kind: built.asm[kind] for kind in _DUMPED}, "sass": cubin.sass})
    shared = own_shared(job.architecture, cubin.static_shared, built.metadata.shared)
    columns = getattr(built.metadata, "tmem_size", None) or 0
    warps = built.metadata.num_warps
    products = half_products(built.asm["ttgir"])
    blocks = blocks_per_multiprocessor(
        job.architecture, registers=cubin.registers, shared=shared, warps=warps, tensor_columns=columns
    )
    return _row(
        job,
        failures=failures(
            job.architecture,
            cubin,
            shared=shared,
            tensor_columns=columns,
            products=products,
            tf32=rounds_float32(built.asm["ttgir"]),
        ),
        registers=cubin.registers,
        shared=shared,
        fits_99k=shared <= LIMITS[86].block_shared,
        tensor_columns=columns,
        stack=cubin.stack,
        loads=cubin.loads,
        stores=cubin.stores,
        instructions=cubin.instructions,
        matrix=cubin.matrix,
        products=products,
        blocks=blocks,
        occupancy=blocks * warps / LIMITS[job.architecture].warps,
    )


def _dump(folder: Path, job: Job, texts: Mapping[str, str | bytes]) -> None:
    words = (job.op, job.kernel_name, str(job.dtype).removeprefix("torch."), job.tile, f"sm_{job.architecture}")
    stem = "-".join("".join(c if c.isalnum() or c in "_=." else "-" for c in word) for word in words)
    # Launches that differ in nothing but alignment or small ints share these words.
    stem = f"{stem[:180]}-{zlib.crc32(repr((job.signature, job.attributes, job.constants)).encode()):08x}"
    for kind, text in texts.items():
        (folder / f"{stem}.{kind}").write_bytes(text if isinstance(text, bytes) else text.encode())
