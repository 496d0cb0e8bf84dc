"""The offline compiler checks: planted faults are found, and every kernel of ours passes on every architecture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kernels.bench.compile_limits import blocks_per_multiprocessor, own_shared
from kernels.bench.compile_pool import Broken, run_forked
from kernels.bench.compile_verdict import half_products, rounds_float32
from kernels.bench.sass import count_opcodes
from s4d.cli import main

HERE = Path(__file__).resolve().parent


def compiled(*arguments: str, code: str | None = None, timeout: float = 240) -> Any:
    """The JSON that a script prints in a process where Triton kernels are compiled, not interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(HERE.parents[1])
    script = ["-c", code] if code else [str(HERE / "compile_kernels.py")]
    done = subprocess.run(
        [sys.executable, *script, *arguments], env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def planted() -> Any:
    return compiled("90", "80:good", "80:rows", "100:good half", "100:rows")


def failures_of(planted: Any, architecture: str, case: str) -> list[str]:
    (row,) = (row for row in planted["rows"] if row["architecture"] == architecture and case in row["cases"])
    found: list[str] = row["failures"]
    return found


@pytest.mark.parametrize(
    ("architecture", "case", "expected"),
    [
        ("sm_90", "good half", []),
        ("sm_90", "good float32", []),
        ("sm_90", "no product", []),
        ("sm_90", "by hand", []),
        ("sm_90", "spills", ["spills: ", "bytes of stack"]),
        ("sm_90", "rounded", ["TF32"]),
        ("sm_90", "rows missing", ["1 as mma, expected wgmma (HGMMA)"]),
        ("sm_90", "shared memory", ["shared memory: 294912 bytes, a block has 232448"]),
        ("sm_90", "does not compile", ["does not compile: "]),
        ("sm_80", "good half", []),
        ("sm_80", "good float32", []),
        ("sm_80", "rows missing", []),
        ("sm_100", "good half", []),
        ("sm_100", "rows missing", ["1 as mma, expected tcgen05 (UTCHMMA)"]),
    ],
)
def test_verdicts(planted: Any, architecture: str, case: str, expected: list[str]) -> None:
    found = failures_of(planted, architecture, case)
    assert len(found) == len(expected)
    assert all(text in failure for text, failure in zip(expected, found, strict=True))


def test_rows_of_a_kernel(planted: Any) -> None:
    """Launches that compile alike share a row; matrix families, occupancy and the stated work stand in it."""
    rows = {row["architecture"]: row for row in planted["rows"] if "good half" in row["cases"]}
    assert all(row["cases"] == ["good half", "good half again"] for row in rows.values())
    assert [list(rows[name]["matrix"]) for name in ("sm_80", "sm_90", "sm_100")] == [["HMMA"], ["HGMMA"], ["UTCHMMA"]]
    hopper = rows["sm_90"]
    assert hopper["tile"] == "ROWS=64 COLUMNS=64 DEPTH=32 IEEE=False w4 s3"
    assert hopper["grid"] == [8, 8]
    assert (hopper["dtype"], hopper["flops"], hopper["fits_99k"]) == ("bfloat16", 2.0 * 512**3, True)
    assert 0 < hopper["registers"] <= 128
    assert hopper["shared"] >= 3 * 64 * 32 * 2 * 2
    assert hopper["occupancy"] == hopper["blocks"] * 4 / 64 > 0


def test_arguments_are_specialised_as_in_a_launch(planted: Any) -> None:
    """A count of 1 is a constant, 2**32 is wide; multiples of 16 and aligned addresses count, floats do not."""
    types = [signature["count"] for signature, _ in planted["specialisations"]]
    assert types == ["i32", "constexpr", "i32", "i64"]
    assert [known for _, known in planted["specialisations"]] == [
        ["x", "y", "count"],
        ["x", "y"],
        ["y"],
        ["x", "y", "count"],
    ]


@pytest.mark.parametrize(
    ("architecture", "resources", "blocks"),
    [
        (90, {"registers": 79, "shared": 24 * 1024, "warps": 4}, 6),
        (90, {"registers": 255, "shared": 0, "warps": 4}, 2),
        (90, {"registers": 250, "shared": 120 * 1024, "warps": 8}, 1),
        (90, {"registers": 16, "shared": 0, "warps": 1}, 32),
        (90, {"registers": 32, "shared": 227 * 1024, "warps": 4}, 1),
        (90, {"registers": 32, "shared": 228 * 1024, "warps": 4}, 0),
        (80, {"registers": 32, "shared": 81 * 1024, "warps": 4}, 2),
        (86, {"registers": 32, "shared": 0, "warps": 8}, 6),
        (100, {"registers": 50, "shared": 1024, "warps": 4, "tensor_columns": 256}, 2),
    ],
)
def test_blocks_per_multiprocessor(architecture: int, resources: dict[str, int], blocks: int) -> None:
    assert blocks_per_multiprocessor(architecture, **resources) == blocks


def test_reserved_shared_memory_is_not_the_kernels_own() -> None:
    assert own_shared(90, 1024, 4096) == 4096
    assert own_shared(80, 0, 4096) == 4096
    assert own_shared(90, 1040, 4096) == 4112


SASS = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;                          /* 0x00000a00ff017b82 */
        /*0010*/               @P0 LDL.LU R2, [R1+0x4] ;                           /* 0x0000000000027919 */
        /*0020*/              @!P1 STL [R1], R3 ;                                  /* 0x0000000000027919 */
        /*0030*/             @UPT  HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24 ;  /* 0x0000000000027919 */
        /*0040*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24 ;  /* 0x0000000000027919 */
"""


def test_opcodes_of_a_listing() -> None:
    assert count_opcodes(SASS) == {"LDC": 1, "LDL": 1, "STL": 1, "HGMMA": 2}


def test_products_of_a_listing() -> None:
    operand = "tensor<16x32xbf16, #ttg.dot_op<{opIdx = 0, parent = #x, kWidth = 2}>>"
    lines = [
        f"%5 = tt.dot %a, %b, %c : {operand} * {operand} -> tensor<16x64xf32, #mma1> loc(#loc68)",
        f"%5 = tt.dot %a, %b, %c : {operand} * {operand} -> tensor<16x64xf32, #blocked> loc(#loc68)",
        "%5 = tt.dot %a, %b, %c : tensor<16x32xf32, #x> * tensor<32x64xf32, #x> -> tensor<16x64xf32, #blocked>",
        "%6 = ttng.warp_group_dot %a, %b, %c {isAsync = true} : !ttg.memdesc<64x32xf16, #shared> -> tensor<64x64xf32>",
        "%7:3 = ttng.warp_group_dot_wait %6, %a {pendings = 1 : i32} : tensor<64x64xf16, #mma>",
        "ttng.tc_gen5_mma %a, %b, %d, %false, %t[%true] {is_async} : !ttg.memdesc<64x32xbf16, #shared1, #smem>",
    ]
    assert half_products("\n".join(lines)) == {"mma": 1, "fma": 1, "wgmma": 1, "tcgen05": 1}
    assert not rounds_float32("\n".join(lines))
    assert rounds_float32(lines[0].replace("bf16", "f32"))
    assert rounds_float32(lines[-1].replace("bf16", "f32"))


def odd_job(item: int) -> int:
    if item == 1:
        raise ValueError("first\n\nlast")
    if item == 2:
        print("a line before the end")
        os._exit(3)
    if item == 3:
        time.sleep(60)
    print("not seen")
    return item * item


def test_a_compiler_that_dies_or_hangs_costs_one_row(capfd: pytest.CaptureFixture[str]) -> None:
    found = dict(run_forked(odd_job, range(6), processes=2, seconds=2))
    assert [found[index] for index in (0, 4, 5)] == [0, 16, 25]
    assert found[1] == Broken("ValueError: first ... last")
    assert found[2] == Broken("the compiler ended with status 3: a line before the end")
    assert found[3] == Broken("no result after 2 s")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("arguments", [["--arch", "sm_12"], ["--op", "attention,magic"], ["--arch", "90"]])
def test_wrong_usage(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert main(["bench", "compile", *arguments]) == 2
    assert "unknown" in capsys.readouterr().err
