"""`s4d profile data` as a command: a JSON document, or tables with goals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s4d.analysis import profile_files
from s4d.cli import profile_data
from s4d.errors import UsageError


@pytest.fixture(autouse=True)
def few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_files, "SECONDS", (2,) * 8)
    monkeypatch.setattr(profile_files, "FPS", 12)


def test_results_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "data.json"
    profile_data.data(device="cpu", workers="0", rounds=1, seconds=0.01, names=24, json=str(target))
    document = json.loads(target.read_text())
    assert (document["what"], document["failures"]) == ("data", [])
    timed = {row["backend"] for row in document["rows"]}
    assert timed - {"dali", "torchcodec"} == {"plain", "plain_tuned", "pyav", "cache"}
    assert len(document["split_ms"]) == 4
    absent = {item["backend"] for item in document["absent"]}
    assert absent >= {"dali", "GPU wait"} and ("torchcodec" in timed) != ("torchcodec" in absent)
    assert len(document["goals"]) == 3
    shown = capsys.readouterr().out
    assert "samples/s" in shown and "at least 1.5x the plain pipeline" in shown and "data.json" in shown


def test_workers_are_numbers() -> None:
    for text in ("two", "-1", ""):
        with pytest.raises(UsageError, match="--workers: expected numbers"):
            profile_data.data(device="cpu", workers=text)
