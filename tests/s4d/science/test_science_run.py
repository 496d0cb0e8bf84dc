"""Rows of the experiment: what is done, what is refused, what goes on; a rehearsal of two arms."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from s4d.errors import DataError
from s4d.science.amounts import SIZES, Data
from s4d.science.arms import ARMS, arm_named
from s4d.science.run import Experiment, Row, rows_of, seconds_in_steps


class Recorder:
    """A trainer that only notes what it was asked for and leaves what a finished run leaves."""

    def __init__(self, fails_on: str = "") -> None:
        self.asked: list[str] = []
        self.fails_on = fails_on

    def __call__(self, config: Path, overrides: Sequence[str], run_dir: Path, *, limit: float) -> None:
        self.asked.append(run_dir.name)
        if run_dir.name == self.fails_on:
            raise DataError("rank 0 ended with status 1")
        run_dir.mkdir(parents=True)
        (run_dir / "finished.json").write_text("{}")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    """No data, and documents without what a real run would tell."""
    monkeypatch.setattr(Data, "make", lambda self: None)
    monkeypatch.setattr(Data, "count", lambda self, source, stills=1.0: 112)
    monkeypatch.setattr(Experiment, "_of_run", lambda self, config: {"size": self.size.name})

    def keep(self: Experiment, row: Row, config: Any) -> None:
        self.results.mkdir(parents=True, exist_ok=True)
        (self.results / f"{row.name}.json").write_text(json.dumps({"settings": self._settings(row)}))

    monkeypatch.setattr(Experiment, "_keep", keep)


def experiment(tmp_path: Path, train: Recorder, size: str = "cpu") -> Experiment:
    return Experiment(
        SIZES[size],
        work=tmp_path / "work",
        results=tmp_path / "results",
        train=train,
        device=torch.device("cpu"),
        facts=dict,
        say=lambda line: None,
    )


def test_one_seed_of_all_arms_of_a_group_comes_before_the_next() -> None:
    names = [row.name for row in rows_of([*ARMS[:2], arm_named("stills-0")], [0, 1])]
    assert names == ["sfer-0", "scratch-0", "sfer-1", "scratch-1", "stills-0-0", "stills-0-1"]


@pytest.mark.usefixtures("made")
def test_pre_trainings_are_shared_by_the_arms_of_a_seed(tmp_path: Path) -> None:
    train = Recorder()
    rows = rows_of([arm_named(name) for name in ("scratch", "dual", "video", "moae")], [3])
    assert experiment(tmp_path, train).run(rows, math.inf) == []
    assert train.asked == ["scratch-3", "pretrain-dual-3", "dual-3", "pretrain-video-3", "video-3", "moae-3"]
    again = Recorder()
    assert experiment(tmp_path, again).run(rows, math.inf) == [] and again.asked == []


@pytest.mark.usefixtures("made")
def test_a_row_starts_from_the_pre_training_of_its_seed(tmp_path: Path) -> None:
    found = experiment(tmp_path, Recorder())
    words = found.overrides(Row(arm=arm_named("video"), seed=5))
    assert f'model.init_from="{tmp_path}/work/runs/pretrain-video-5"' in words and "seed=5" in words
    assert f'data.sources.0.manifest="{tmp_path}/work/data/dfew.parquet"' in words
    few = found.overrides(Row(arm=arm_named("stills-12.5"), seed=5))
    assert f'data.sources.0.manifest="{tmp_path}/work/data/affectnet-12.5.parquet"' in few
    assert not [word for word in found.overrides(Row(arm=arm_named("scratch"), seed=5)) if "/runs/" in word]


@pytest.mark.usefixtures("made")
def test_nothing_begins_after_the_time_and_failures_are_told(tmp_path: Path) -> None:
    train = Recorder()
    rows = rows_of([arm_named("scratch"), arm_named("dual")], [0])
    assert experiment(tmp_path, train).run(rows, time.monotonic()) == rows and train.asked == []
    with pytest.raises(DataError, match="rank 0 ended"):
        experiment(tmp_path, Recorder(fails_on="pretrain-dual-0")).run(rows, math.inf)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["scratch-0.json"]


@pytest.mark.usefixtures("made")
def test_a_document_of_other_settings_is_refused(tmp_path: Path) -> None:
    row = Row(arm=arm_named("scratch"), seed=0)
    experiment(tmp_path, Recorder()).run([row], math.inf)
    with pytest.raises(DataError, match=r"scratch-0\.json: settings"):
        experiment(tmp_path, Recorder(), size="gpu").is_done(row)
    (tmp_path / "results" / "scratch-0.json").write_text("{}")
    with pytest.raises(DataError, match="no result of"):
        experiment(tmp_path, Recorder()).is_done(row)


def test_seconds_count_the_steps_between_logged_ones() -> None:
    lines = [
        {"step": 1, "time/step": 4.0},
        {"step": 10, "time/step": 0.5},
        {"step": 10, "eval/dfew.uar": 0.2},
        {"step": 20, "time/step": 1.0},
    ]
    assert seconds_in_steps(lines) == 4.0 + 9 * 0.5 + 10 * 1.0


@pytest.mark.deep
@pytest.mark.launch
def test_a_rehearsal_of_two_arms_that_is_cut_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A killed run goes on from its checkpoint; documents, predictions and the table are there at the end."""
    from s4d.cli import main

    options = ["--size", "tiny", "--results", str(tmp_path / "results")]
    command = ["science", "run", *options, "--device", "cpu", "--work", str(tmp_path / "work"), "--seed", "1"]
    command += ["--arm", "scratch", "--arm", "moae-release"]
    assert main([*command, "--minutes", "0"]) == 1
    run_dir = tmp_path / "work" / "tiny" / "runs" / "scratch-1"
    assert main([*command, "--arm", "scratch"]) == 0
    documents = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json")}
    assert set(documents) == {"scratch-1", "moae-release-1", "pretrain-dual-1"}
    assert documents["scratch-1"]["cross_use"]["source"] == "affectnet"
    assert documents["moae-release-1"]["cross_use"] is None
    assert documents["scratch-1"]["samples_seen"] == {"video": 160}
    assert documents["moae-release-1"]["samples_seen"] == {"image": 160, "video": 160}
    assert [point["step"] for point in documents["moae-release-1"]["curve"]] == [4, 8]
    (tmp_path / "results" / "scratch-1.json").unlink()
    (run_dir / "finished.json").unlink()
    capsys.readouterr()
    assert main(command) == 0
    assert "continuing from" in (run_dir.parent / "scratch-1.log").read_text()
    again = json.loads((tmp_path / "results" / "scratch-1.json").read_text())
    assert again["scores"] == documents["scratch-1"]["scores"]
    assert main(["science", "table", *options]) == 0
    assert "DFER only, from scratch" in capsys.readouterr().out
