"""`s4d bench step` on cases of a few tokens: the document, exit codes, memory in a process of its own, the README."""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s4d.analysis.bench_step import CASES
from s4d.analysis.step_peers.table import PEERS
from s4d.cli import bench_report, bench_step, bench_step_memory, main
from s4d.cli.bench import patterns
from s4d.cli.bench_step_memory import peak_memory
from s4d.cli.bench_step_tables import BEGIN, END, committed, readme_lines, with_table
from s4d.errors import DataError
from s4d.models.build import build_pretrain

ROOT = Path(__file__).resolve().parents[3]
TINY = ["--device", "cpu", "--cases", "tiny", "--repeats", "1", "--quick-ceiling"]


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def test_a_run_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_step_memory, "peak_memory", lambda case, peer, precision: len(f"{peer} {precision}"))
    result, table = tmp_path / "step.json", tmp_path / "history.csv"
    files = ["--json", str(result), "--csv", str(table)]
    assert main(["bench", "step", *TINY, "--peers", "bare,release-eager", *files]) == 0
    document = read(result)
    assert (document["schema"], document["what"], document["complete"]) == (1, "step", True)
    sides = [(row["peer"], row["dtype"]) for row in document["rows"]]
    assert sides == [("bare", "bf16"), ("release-eager", "bf16"), ("release-eager", "fp32")]
    assert [row["peak_bytes"] for row in document["rows"]] == [9, 18, 18]
    assert [each["peer"] for each in document["comparisons"]] == ["release-eager", "release-eager"]
    assert len(document["ceilings"]) == 2 and document["ceiling"]["matmul_bfloat16"] > 0
    assert {goal["state"] for goal in document["goals"]} == {"absent"}, "no goal is about tiny cases"
    checked = document["rows"][1]["check"]["float32"]
    assert checked["losses"].keys() == {"image", "video"} and checked["gradients"]
    assert table.read_text(encoding="utf-8").count("\n") == 4
    output = capsys.readouterr().out
    assert "release-eager bf16" in output and "ours is faster by" in output


@pytest.mark.launch
def test_the_engine_runs_beside_the_bare_loop(tmp_path: Path) -> None:
    """In a process of its own: DeepSpeed's process group would outlive the test."""
    code = "import sys; from s4d.cli import main; sys.exit(main())"
    arguments = ["bench", "step", *TINY, "--peers", "engine,bare", "--json", str(tmp_path / "step.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    document = read(tmp_path / "step.json")
    assert [row["peer"] for row in document["rows"]] == ["engine", "bare"]
    assert [(each["ours"], each["peer"]) for each in document["comparisons"]] == [("engine", "bare")]
    assert document["rows"][0]["notes"] == {"zero_stage": 0, "step": "plain (no GPU)"}


def test_a_wrong_side_ends_with_status_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from s4d.analysis.step_peers import session

    def failing(*arguments: Any) -> None:
        note = {"op": "step", "case": "tiny", "dtype": "bf16", "peer": "release-eager"}
        arguments[3].failures.append({**note, "reason": "loss differs", "backend": True})

    monkeypatch.setattr(session, "run_case", failing)
    assert main(["bench", "step", *TINY, "--json", str(tmp_path / "step.json")]) == 1
    assert read(tmp_path / "step.json")["failures"][0]["reason"] == "loss differs"


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "step", "--device", "cpu", "--cases", "nope"]) == 2
    assert "cases are pretrain_8_clips" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no counts of resident memory on this system")
def test_memory_is_that_of_a_process_of_its_own() -> None:
    case = CASES["tiny"]
    weights = sum(weight.numel() for weight in build_pretrain(case.shape.architecture(), 0).parameters())
    peak = peak_memory(case, "bare", "bf16")
    # Weights in 2 and 4 bytes, two moments, gradients; and far less than the imports take.
    assert peak is not None and 14 * weights < peak < 14 * weights + (1 << 29)
    assert peak_memory(case, "compile-sdpa", "bf16") is None
    with pytest.raises(DataError, match="memory of nobody in bf16 on tiny: status 1: KeyError"):
        peak_memory(case, "nobody", "bf16")


def document_of(device: str) -> dict[str, Any]:
    row = {"case": "pretrain_8_clips", "clips_per_second": 5.2, "images_per_second": 0.0, "peak_bytes": 600}
    rows = [
        {**row, "peer": "engine", "dtype": "bf16"},
        {**row, "peer": "bare", "dtype": "bf16"},
        {**row, "peer": "release-eager", "dtype": "fp32", "clips_per_second": 1.25, "peak_bytes": 1200},
        {**row, "peer": "compile-sdpa", "dtype": "bf16", "peak_bytes": None},
    ]
    comparisons = [
        {"case": "pretrain_8_clips", "ours": "engine", "peer": each["peer"], "dtype": each["dtype"], "speedup": 4.16}
        for each in rows[1:]
    ]
    return {
        "complete": True,
        "machine": {"device_name": device},
        "rows": rows,
        "comparisons": comparisons,
    }


def test_the_table_of_the_readme() -> None:
    lines = readme_lines([document_of("a processor")])
    assert len(lines) == 4, "a header, and a row for each side that is not ours"
    assert lines[2] == (
        "| a processor | pretrain 8 clips | engine bf16 | release-eager fp32 | 5.2 against 1.25 |  | 4.16 | 0.50x |"
    )
    assert lines[3].endswith("| 4.16 |  |")
    text = with_table(f"before\n{BEGIN}\nold\n{END}\nafter\n", [document_of("a processor")])
    assert (
        text.startswith(f"before\n{BEGIN}\n\n| device") and text.endswith(f"|\n\n{END}\nafter\n") and "old" not in text
    )
    assert with_table(text, [document_of("a processor")]) == text
    with pytest.raises(DataError, match=r"README\.md: expected a line"):
        with_table("no markers", [])


def test_results_that_are_none_are_named(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks" / "results" / "cpu" / "step.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(DataError, match=r"step\.json: no results of `s4d bench step`"):
        committed(tmp_path)


def test_the_readme_holds_what_the_committed_results_give() -> None:
    """`s4d bench step --readme` brings it up to date."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(text, committed(ROOT)) == text


def test_a_part_of_the_cases_replaces_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from s4d.analysis.step_peers.session import StepOptions
    from s4d.cli.bench import chosen_device

    monkeypatch.chdir(tmp_path)
    device = chosen_device("cpu")
    part = bench_step._StepMeasurement(StepOptions(device=device, cases=("tiny",)), None, None, quick=True)
    assert part.file is None and part.csv is None
    whole = bench_step._StepMeasurement(StepOptions(device=device), None, None, quick=True)
    assert whole.file is not None and whole.file.name == "step.json" and whole.csv is not None


def test_the_gpu_report_names_cases_and_sides_that_exist() -> None:
    parts = [part for part in bench_report.PARTS if part.bench == "step"]
    assert parts
    known = {"engine", *(peer.name for peer in PEERS)}
    for part in parts:
        chosen = dict(zip(part.options[::2], part.options[1::2], strict=True))
        assert all(fnmatch.filter(known, pattern) for pattern in patterns(chosen["--peers"]))
        assert set(patterns(chosen.get("--cases"))) <= set(CASES)
        assert "--plots" not in bench_report.part_command(part, "cuda", Path("out.json"), [], 60)
