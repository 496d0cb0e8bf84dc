"""`s4d bench compare` on this checkout: both native libraries are built, loaded and timed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from s4d.analysis.compare import worktree
from s4d.cli import bench_compare, main

ROOT = Path(__file__).resolve().parents[3]
IS_CHECKOUT = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True).returncode == 0
needs_git = pytest.mark.skipif(not IS_CHECKOUT, reason="this source tree is no git checkout")


@needs_git
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "compare", "--base", "no-such-revision", "--device", "cpu"]) == 2
    assert "'no-such-revision' is no commit" in capsys.readouterr().err
    assert main(["bench", "compare", "--base", "HEAD", "--device", "cpu", "--cases", "nope"]) == 2
    assert "cases are attention/mix10_40" in capsys.readouterr().err


def test_every_case_of_the_suite_exists() -> None:
    from kernels.bench.ops import OPS

    for case in {case for suite in bench_compare.SUITE.values() for case in suite}:
        op, _, name = case.partition("/")
        assert name in (OPS[op].cases if op in OPS else {"step": ("pretrain", "finetune")}[op]), case


@pytest.mark.parametrize(("verdict", "status"), [("slower", 1), ("slower once", 0), ("same", 0)])
def test_a_slow_down_names_its_case_and_ends_with_status_1(
    verdict: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change = {"median": 0.1, "low": 0.08, "high": 0.12, "rounds": 15}
    row: dict[str, Any] = {"case": "patch/clips", "base": [0.01], "head": [0.011], "change": change}
    row |= {"verdict": verdict, "again": {"change": change}}
    one_sided = [{"case": "moae/new", "missing": "base", "reason": "moae/new is no case"}]
    monkeypatch.setattr(bench_compare, "compared", lambda *_: {"rows": [row], "one_sided": one_sided})
    assert main(["bench", "compare", "--base", "HEAD", "--device", "cpu"]) == status
    shown = capsys.readouterr().out
    assert ("SLOWER: patch/clips" in shown) == (status == 1)
    assert "not compared: moae/new: base has it not" in shown


@needs_git
@pytest.mark.deep
@pytest.mark.skipif(not worktree.has_compiler(), reason="no C++ compiler")
def test_both_sides_are_built_and_timed(tmp_path: Path) -> None:
    target = tmp_path / "compare.json"
    cases = ["--cases", "patch/stills90_small", "--rounds", "5", "--device", "cpu", "--json", str(target)]
    status = main(["bench", "compare", "--base", "HEAD", *cases])
    document = json.loads(target.read_text())
    (row,) = document["rows"]
    assert document["native"] and len(row["base"]) == len(row["head"]) == 5
    assert status == (row["verdict"] == "slower"), "on a busy machine anything may be slower"
