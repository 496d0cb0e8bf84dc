"""The command gives the study what it was asked for and prints what the study found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from s4d.analysis.correlation import correlate as study
from s4d.cli import main


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def correlate(runs: Sequence[Path], out: Path, **options: Any) -> tuple[Path, dict[str, Any]]:
        options.pop("progress")(1, 1)
        seen.update(options, runs=runs, out=out)
        return out / "correlation.html", {"split": options["split"]}

    monkeypatch.setattr(study, "correlate", correlate)
    return seen


def test_options_reach_the_study(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    given = ["joint", "sfer", "--out", "there", "--split", "val", "--static", "faces", "--scaling", "results", "--json"]
    assert main(["analyze", "correlation", *given]) == 0
    assert json.loads(capsys.readouterr().out) == {"split": "val"}
    assert asked == {
        "runs": [Path("joint"), Path("sfer")],
        "out": Path("there"),
        "split": "val",
        "static": "faces",
        "dynamic": None,
        "scaling": Path("results"),
    }


def test_what_was_written_is_named(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "correlation", "joint", "--out", "there"]) == 0
    assert capsys.readouterr().out.splitlines() == ["wrote there/correlation.html", "wrote there/correlation.json"]


def test_a_run_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "correlation", str(tmp_path / "gone"), "--out", str(tmp_path / "out")]) == 1
    assert "gone: no such run, checkpoint or model folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
