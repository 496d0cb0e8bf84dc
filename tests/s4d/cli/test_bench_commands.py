"""`s4d bench` end to end on cases of a few tokens: files, exit codes, and a report that survives failing parts."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels import backends, moae
from kernels.backends import Backend
from kernels.moae.dense_all import moae as dense_all
from s4d.analysis.bench_plots import draw_plots
from s4d.cli import bench_report, main
from s4d.cli.bench_report import Part
from s4d.config import load
from s4d.shipped_configs import SHIPPED

TINY = ["--device", "cpu", "--cases", "tiny", "--repeats", "1", "--quick-ceiling"]


def twice_the_output(*arguments: Any) -> Any:
    output, record = dense_all(*arguments)
    return output * 2, record


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def test_all_ops_into_json_and_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, table = tmp_path / "all.json", tmp_path / "history.csv"
    files = ["--json", str(result), "--csv", str(table), "--plots", str(tmp_path)]
    assert main(["bench", "all", *TINY, "--dtype", "fp32", *files]) == 0
    document = read(result)
    assert (document["schema"], document["kind"], document["complete"]) == (1, "measurement", True)
    assert document["machine"]["versions"]["torch"] == torch.__version__
    assert set(document["ceiling"]) == {"matmul_float32", "copy"}
    assert {row["op"] for row in document["rows"]} == {"attention", "moae", "patch", "reconstruction"}
    assert not document["failures"]
    assert all(item["reason"] for item in document["absent"])
    assert {goal["state"] for goal in document["goals"]} == {"absent"}, "no goal is about tiny cases"
    with table.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(document["rows"]) and float(lines[0]["median_ms"]) > 0
    output = capsys.readouterr().out
    assert "attention tiny float32" in output and "conv3d_ready" in output
    assert max(map(len, output.splitlines())) <= 200


def test_plots_hold_the_sweeps(tmp_path: Path) -> None:
    rows = [
        {
            "op": "attention",
            "dtype": "bfloat16",
            "phase": "both",
            "peer": peer,
            "backend": peer == "native",
            "automatic": peer == "native",
            "axes": {"length": length},
            "median_ms": length * factor,
            "flops_per_second": 1e11 / factor,
            "peak_bytes": 1e6 * factor,
        }
        for peer, factor, lengths in (("native", 1.0, (10, 40, 100)), ("sdpa", 2.0, (10, 100)), ("flex", 3.0, (10,)))
        for length in lengths
    ]
    document = {"rows": rows, "machine": {"device_name": "a device"}, "date": "2026-01-01T00:00:00"}
    (picture,) = draw_plots(document, tmp_path)
    assert picture.name == "attention_length_bfloat16.png" and picture.stat().st_size > 10_000
    document["rows"] = rows[:2]
    assert not draw_plots(document, tmp_path), "two points are no curve"


def test_json_on_stdout_is_alone_there_and_csv_is_appended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "new" / "history.csv"
    for _ in range(2):
        assert main(["bench", "patch", *TINY, "--dtype", "fp32", "--json", "-", "--csv", str(table)]) == 0
        document = json.loads(capsys.readouterr().out)
    assert {row["dtype"] for row in document["rows"]} == {"float32"}
    lines = table.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 2 * len(document["rows"]) and lines[0].startswith("date,commit,")


def test_a_wrong_backend_ends_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Backend(name="grouped", function=twice_the_output)
    monkeypatch.setitem(moae.BACKENDS, "grouped", wrong)
    # Choices are remembered: those made here must not outlive the wrong row, nor earlier ones hide it.
    monkeypatch.setattr(backends, "_resolved", {})
    assert main(["bench", "moae", *TINY, "--dtype", "fp32", "--json", str(tmp_path / "moae.json")]) == 1
    document = read(tmp_path / "moae.json")
    assert [item["peer"] for item in document["failures"]] == ["grouped"]
    assert "grouped" not in {row["peer"] for row in document["rows"]}
    assert "wrong results, not timed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["moae", "--device", "tpu"], "--device: expected cuda or cpu"),
        (["moae", "--device", "cpu", "--dtype", "int8"], "--dtype: expected some of bf16"),
        (["moae", "--device", "cpu", "--cases", "nope"], "cases are t1600"),
        (["projection", "--gpu", "abacus"], "--gpu: expected one of h200"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    assert expected in capsys.readouterr().err


def test_without_a_gpu_one_cannot_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "moae", "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_a_projection_is_labelled(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "projection", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "projection" and "measured" in document["note"]
    assert main(["bench", "projection"]) == 0
    assert capsys.readouterr().out.startswith("PROJECTION for h200")


def test_a_report_records_parts_that_fail_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (
        Part(name="hangs", group="some", bench="patch", limit=0.2),
        Part(name="fails", group="some", bench="nonsense", limit=60),
        Part(name="works", group="some", bench="patch", limit=120),
        Part(name="left", group="others", bench="patch", limit=120),
    )
    monkeypatch.setattr(bench_report, "PARTS", parts)
    arguments = ["--device", "cpu", "--cases", "tiny", "--repeats", "1", "--out", str(tmp_path), "--skip", "others"]
    assert main(["bench", "gpu-report", *arguments]) == 1
    document = read(tmp_path / "gpu-report.json")
    states = {part["name"]: part["state"] for part in document["parts"]}
    assert states["hangs"].startswith("out of time")
    assert states["fails"] == "failed with status 2" and "nonsense" in document["parts"][1]["tail"]
    assert states["works"] == "passed" and document["parts"][2]["document"]["rows"]
    assert document["ok"] is False and document["missing"] == ["left"]


PROFILES = [part for part in bench_report.PARTS if part.profile is not None]


def test_a_step_of_each_task_is_profiled() -> None:
    tasks = [load(SHIPPED / str(part.profile)).task for part in PROFILES]
    assert tasks == ["pretrain", "finetune"]
    for part in PROFILES:
        command = bench_report.part_command(part, "cuda", Path("out.json"), [], 60)
        assert command[3:5] == ["profile", "step"] and "--synthetic" in command
        assert command[command.index("--device") + 1] == "cuda"


@pytest.mark.deep
@pytest.mark.parametrize("part", PROFILES, ids=lambda part: part.name)
def test_a_rehearsal_profiles_little_models(part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_report, "PARTS", (replace(part, limit=200),))
    arguments = ["--device", "cpu", "--cases", "tiny", "--out", str(tmp_path)]
    assert main(["bench", "gpu-report", *arguments]) == 0
    (found,) = read(tmp_path / "gpu-report.json")["parts"]
    assert found["document"]["run"]["synthetic"] is True and found["document"]["parts"]["embed"]
