"""`s4d status`: only a finish record makes a run done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s4d.cli import main


def test_a_run_is_done_by_its_record_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n{"step": 4}\n')
    (tmp_path / "checkpoints/step-00000004").mkdir(parents=True)
    (tmp_path / "failure.json").write_text('{"cause": "rank 1 of 2 on n1: gone"}')
    assert main(["status", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}: not done, step 4 logged, newest checkpoint step-00000004",
        "last failure: rank 1 of 2 on n1: gone",
    ]
    (tmp_path / "finished.json").write_text('{"step": 4}')
    assert main(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "done": True,
        "step": 4,
        "checkpoint": "step-00000004",
        "failure": "rank 1 of 2 on n1: gone",
    }


@pytest.mark.parametrize(("name", "text"), [("finished.json", "{"), ("finished.json", "[]"), ("failure.json", "{}")])
def test_a_damaged_record_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert main(["status", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert name in said and len(said.splitlines()) == 1


def test_no_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path / "absent")]) == 1
    assert "no such run folder" in capsys.readouterr().err
