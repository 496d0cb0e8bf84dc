"""The lines that a run prints: short enough for a terminal, one below the other, one a source for scores."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from engine.protocols import StepResult
from engine.telemetry import Telemetry


def telemetry(path: Path, total_steps: int) -> Telemetry:
    runtime = SimpleNamespace(rank=0, world_size=1, device=torch.device("cpu"))
    return Telemetry(
        path,
        runtime=runtime,  # type: ignore[arg-type]
        samples_per_step=48,
        total_steps=total_steps,
        log_every=1,
        counters={},
    )


def result(loss: float) -> StepResult:
    found = SimpleNamespace(loss=torch.tensor(loss), parts={}, metrics={})
    return cast(StepResult, found)


def test_step_lines_fit_and_stand_below_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(step=0.25)
    monkeypatch.setattr("engine.telemetry.time.perf_counter", lambda: next(seconds))
    log = telemetry(tmp_path / "metrics.jsonl", 100_000)
    for step, loss, norm in ((1, 6.9078, 12.5), (99_999, 0.7321, 0.0123)):
        log.observe(step, [result(loss)], lr=1e-3, grad_norm=norm, counts={})
    lines = capsys.readouterr().out.splitlines()
    assert [line.index(" loss ") for line in lines] == [18, 18]
    assert lines[1].startswith("step  99999/100000 loss 0.7321 lr 1.00e-03 norm  0.012 ")
    assert all(len(line) <= 80 and line.isprintable() for line in lines)
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1])["loss"] == pytest.approx(0.7321)


def test_scores_have_a_line_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = telemetry(tmp_path / "metrics.jsonl", 9)
    log.scores(9, {"affectnet.uar": 0.5, "affectnet.war": 0.25, "dfew.uar": 1.0, "loss": 2.0})
    assert capsys.readouterr().out.splitlines() == [
        "step 9: affectnet uar 0.5000, war 0.2500",
        "step 9: dfew uar 1.0000",
        "step 9: loss 2.0000",
    ]
    log.close()


def test_scores_of_the_end_are_told_and_not_logged_as_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = telemetry(tmp_path / "metrics.jsonl", 9)
    log.tell("at the end", {"dfew.uar": 1.0, "dfew.war": 0.5})
    log.tell("at the end", {})
    log.close()
    assert capsys.readouterr().out == "at the end: dfew uar 1.0000, war 0.5000\n"
    assert not (tmp_path / "metrics.jsonl").read_text()
