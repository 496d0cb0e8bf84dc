"""`s4d bench compile`: what the compiler makes of every Triton kernel, checked without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4d.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from kernels.bench.compile import Row

_COLUMNS = ("op", "kernel", "dtype", "arch", "tile", "regs", "LDL/STL", "shared", "matrix", "blocks", "FLOP/B", "state")


def compile_kernels(
    arch: Annotated[str, typer.Option(help="Architectures, separated by commas.")] = "sm_80,sm_90,sm_100",
    op: Annotated[str | None, typer.Option(help="Only these ops, separated by commas.")] = None,
    case: Annotated[str, typer.Option(help="Only compile cases whose name contains this text.")] = "",
    dump: Annotated[Path | None, typer.Option(help="Keep cubins, SASS and intermediate forms in this folder.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Compilations at a time.")] = max(1, os.cpu_count() or 1),
    as_json: AsJson = False,
) -> None:
    """Compile every Triton kernel at every tile; exit 1 if one spills, does not fit or misses the tensor cores."""
    if os.environ.get("TRITON_INTERPRET"):
        raise typer.Exit(_again_without_interpreter(arch, op, case, dump, jobs, as_json))
    from kernels.bench.compile import OPS, collect_jobs, compile_jobs
    from kernels.bench.compile_limits import LIMITS

    architectures = [int(name.removeprefix("sm_")) for name in _names(arch, {f"sm_{n}" for n in LIMITS}, "--arch")]
    ops = list(OPS) if op is None else _names(op, set(OPS), "--op")
    found = collect_jobs(ops, architectures, lambda each: case in each.name)
    if not found:
        raise typer.BadParameter(f"no compile case has {case!r} in its name", param_hint="--case")
    rows = compile_jobs(found, processes=jobs, dump=dump, report=_tell_failures)
    if as_json:
        print_json({"ok": not any(row.failures for row in rows), "rows": [row.as_dict() for row in rows]})
    else:
        print_table(_COLUMNS, [_cells(row) for row in rows])
    if any(row.failures for row in rows):
        raise typer.Exit(1)


def _names(text: str, known: set[str], option: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise typer.BadParameter(
                f"unknown {name!r}; expected some of {', '.join(sorted(known))}", param_hint=option
            )
    return names


def _tell_failures(row: Row) -> None:
    for failure in row.failures:
        sys.stderr.write(f"{row.op} {row.kernel} {row.dtype} {row.architecture} [{row.tile}]: {failure}\n")


def _cells(row: Row) -> tuple[object, ...]:
    return (
        row.op,
        row.kernel,
        row.dtype,
        row.architecture,
        row.tile,
        row.registers,
        f"{row.loads}/{row.stores}",
        row.shared,
        " ".join(f"{name} {count}" for name, count in (row.matrix or {}).items()) or "-",
        row.blocks,
        f"{row.flops / row.bytes:.1f}" if row.flops is not None and row.bytes else "-",
        "ok" if not row.failures else "FAILS",
    )


def _again_without_interpreter(
    arch: str, op: str | None, case: str, dump: Path | None, jobs: int, as_json: bool
) -> int:
    """Run this command in a process where kernels are compiled: the choice falls when their modules are imported."""
    options = ["--arch", arch, "--jobs", str(jobs), *(["--json"] if as_json else [])]
    options += ["--case", case] if case else []
    options += [*(["--op", op] if op is not None else []), *(["--dump", str(dump)] if dump is not None else [])]
    code = "import sys; from s4d.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, "-c", code, "bench", "compile", *options], env=environment).returncode
