"""Our kernels under the offline compiler: every tile has a compile case, and what is compiled passes.

The quick suite compiles each kernel once, for Hopper in bfloat16; the deep one everything.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

from kernels.bench.compile import ARCHITECTURES, OPS, compile_cases
from kernels.launch import recording
from s4d.cli import main

ROOT = Path(__file__).resolve().parents[2]
DTYPES = ("bfloat16", "float16", "float32")
# So that a part stays within four minutes of two cores.
PARTS = {"attention": 2, "moae": 2, "patch": 1, "reconstruction": 1}

SCRIPT = """
import json, sys
from kernels.bench.compile import collect_jobs, compile_jobs
ops, architecture, dtype, part, parts = sys.argv[1:]
jobs = [job for job in collect_jobs(ops.split(","), [int(architecture)]) if str(job.dtype) == f"torch.{dtype}"]
if part == "first":
    jobs = list({(job.op, job.kernel_name): job for job in reversed(jobs)}.values())
else:
    jobs = jobs[int(part)::int(parts)]
print(json.dumps([row.as_dict() for row in compile_jobs(jobs, processes=2)]))
"""


def compiled(ops: str, architecture: int, dtype: str, part: str, parts: int = 1) -> list[dict[str, Any]]:
    """Rows of the selected kernels, from a process where Triton compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, ops, str(architecture), dtype, part, str(parts)],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    assert rows
    return rows


def faults(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"{row['kernel']} {row['architecture']} [{row['tile']}]: {row['failures']}" for row in rows if row["failures"]
    ]


def tile_modules(op: str) -> list[ModuleType]:
    paths = sorted((ROOT / "kernels" / op).glob("*tiles.py"))
    return [importlib.import_module(f"kernels.{op}.{path.stem}") for path in paths]


def tiles_in(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Tiles, frozen records, in a table of dicts and tuples, each with its place there."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield place, value
    elif isinstance(value, dict):
        for key, row in value.items():
            yield from tiles_in(row, f"{place}[{key}]")
    elif isinstance(value, tuple | list):
        for index, row in enumerate(value):
            yield from tiles_in(row, f"{place}[{index}]")


@pytest.mark.parametrize("op", OPS)
def test_every_tile_has_a_compile_case(op: str) -> None:
    """What the selectors return while the cases run is every row of the tables, as an object."""
    modules = tile_modules(op)
    files = {module.__file__ for module in modules}
    returned: list[Any] = []

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "return" and frame.f_code.co_filename in files and dataclasses.is_dataclass(argument):
            returned.append(argument)

    sys.setprofile(profile)
    try:
        for architecture in ARCHITECTURES:
            for case in compile_cases(op):
                with recording(dry=True, architecture=architecture):
                    case.run()
    finally:
        sys.setprofile(None)
    chosen = {id(tile) for tile in returned}
    tables = {f"{module.__name__}.{name}": table for module in modules for name, table in vars(module).items()}
    rows = [row for place, table in tables.items() if isinstance(table, dict) for row in tiles_in(table, place)]
    assert rows
    assert [place for place, tile in rows if id(tile) not in chosen] == []


@pytest.mark.parametrize("op", OPS)
def test_every_case_states_its_work(op: str) -> None:
    for case in compile_cases(op):
        with recording(dry=True, architecture=90) as launches:
            case.run()
        assert {launch.name for launch in launches} <= set(case.work), case.name
        assert all(work.flops >= 0 and work.bytes > 0 for work in case.work.values()), case.name


def test_each_kernel_on_hopper() -> None:
    rows = compiled(",".join(OPS), 90, "bfloat16", "first")
    assert {row["op"] for row in rows} == set(OPS)
    assert not faults(rows)


@pytest.mark.deep
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("op", "part"), [(op, part) for op in OPS for part in range(PARTS[op])])
def test_all_kernels(op: str, part: int, architecture: int, dtype: str) -> None:
    assert not faults(compiled(op, architecture, dtype, str(part), PARTS[op]))


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts itself again where kernels are interpreted, prints JSON and keeps what it compiled."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    options = ["--op", "patch", "--case", "few clips, bfloat16", "--arch", "sm_90", "--jobs", "2", "--json"]
    assert main(["bench", "compile", *options, "--dump", str(tmp_path / "kept")]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["ok"]
    assert all(row["registers"] > 0 and row["flops"] is not None for row in document["rows"])
    kept = sorted((tmp_path / "kept").glob("*.cubin"))
    assert len(kept) == len(document["rows"])
    assert kept[0].name.startswith("patch-patch_embed_kernel-bfloat16-") and "-sm_90-" in kept[0].name
    assert "HGMMA" in kept[0].with_suffix(".sass").read_text()
