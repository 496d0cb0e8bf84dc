from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from s4d.analysis.correlation.gradients import gradient_study
from s4d.analysis.correlation.routing import routing_study
from s4d.analysis.correlation.training_parts import gradient_part, routing_part
from s4d.analysis.picture import Picture
from s4d.cli.analyze_gradients import gradients
from s4d.cli.analyze_routing import routing

MakeRun = Callable[..., Path]


def is_png(picture: Picture) -> bool:
    return all(base64.b64decode(uri.partition(",")[2]).startswith(b"\x89PNG") for uri in (picture.light, picture.dark))


def test_gradients_on_the_page(make_run: MakeRun) -> None:
    runs = [make_run("vanilla", mode="multitask", steps=(5, 10, 20)), make_run("moae", steps=(5,))]
    study = gradient_study(runs, batches=2)
    part = gradient_part(study)
    over_time, last = part.tables
    assert [row[:2] for row in over_time.rows] == [
        ("vanilla", "5"),
        ("vanilla", "10"),
        ("vanilla", "20"),
        ("moae", "5"),
    ]
    assert last.columns[1:] == ("attention", "mlp", "experts", "routers", "rest")
    assert last.rows[0][3:5] == ("-", "-") and last.rows[1][3] != "-"
    assert {len(row) for table in part.tables for row in table.rows} == {len(over_time.columns), len(last.columns)}
    assert len(part.pictures) == 3 and all(map(is_png, part.pictures))
    cosine = study.runs[0].checkpoints[-1].shared.cosine
    assert f"{cosine:.2f} at step 20" in part.pictures[0].alt
    assert len(part.headline) == 2


def test_routing_on_the_page(make_run: MakeRun) -> None:
    study = routing_study([make_run("moae")], draws=20)
    part = routing_part(study)
    layers, classes = part.tables
    assert [row[0] for row in layers.rows] == ["moae, block 1"]
    assert [row[:2] for row in classes.rows] == [("moae, stills", "1"), ("moae, clips", "1")]
    assert all(len(row) == len(table.columns) for table in part.tables for row in table.rows)
    distance = study.runs[0].layers[0].distance
    assert distance is not None and f"block 1 {distance.value:.2f}" in part.pictures[0].alt
    # Distances, usage, distances by class, and the lifts of the only layer.
    assert len(part.pictures) == 4 and all(map(is_png, part.pictures))


def test_commands(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("moae")
    gradients([run], batches=2, samples=2, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["runs"][0]["checkpoints"][0]["step"] == 5
    assert printed == json.loads(json.dumps(gradient_study([run], batches=2, samples=2).to_dict()))
    routing([run], draws=20, as_json=True)
    assert json.loads(capsys.readouterr().out)["runs"][0]["top_k"] == 2
    gradients([run], batches=2, samples=2)
    assert "corrected" in capsys.readouterr().out
    routing([run], draws=20)
    assert "moae, block 1" in capsys.readouterr().out
