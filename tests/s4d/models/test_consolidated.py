"""Scores in a consolidated folder are those of the weights in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from s4d.errors import DataError
from s4d.models.consolidated import environment_of, take_model
from s4d.models.folder import write_folder

SCORES = {"uar": 0.5, "war": 0.6, "samples": 4, "unreadable": 0}
TRAINING: dict[str, Any] = {
    **{"name": "a", "mode": "moae", "recipe": "s4d", "seed": 0, "steps": 4, "views_per_step": {"clips": 2}},
    **{"lr": 0.1, "weight_decay": 0.0, "ema": 0.9, "precision": "fp32", "init_from": None},
}
METRICS = {
    **{"step": 4, "protocol": "held-out", "split": "test", "views": {"temporal": 2, "spatial": 1}},
    "sources": {"clips": SCORES},
}
AVERAGED = {
    "sources": {"clips": {"split": "test", "uar": 0.7, "war": 0.8, "confusion": [[2, 0], [1, 1]], "unreadable": 1}}
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The last one of a finished run that kept an average."""
    folder = tmp_path / "run/checkpoints/step-00000004"
    write_folder(folder, {"a": torch.zeros(2)}, {"stage": "small", "step": 4, "training": TRAINING, "metrics": METRICS})
    save_file({"a": torch.ones(2)}, folder / "ema.safetensors")
    (tmp_path / "run/env.json").write_text('{"device": "cpu"}')
    (tmp_path / "run/evaluation-ema.json").write_text(json.dumps(AVERAGED))
    return folder


def test_each_kind_of_weights_has_its_own_scores(checkpoint: Path) -> None:
    tensors, described = take_model(checkpoint, "last")
    assert not tensors["a"].any() and described["metrics"] == METRICS and described["weights"] == "last"
    tensors, described = take_model(checkpoint, "ema")
    assert tensors["a"].all() and described["weights"] == "ema"
    assert described["metrics"]["sources"] == {"clips": {"uar": 0.7, "war": 0.8, "samples": 4, "unreadable": 1}}
    assert environment_of(checkpoint) == {"device": "cpu"} and environment_of(checkpoint.parent) == {}


@pytest.mark.parametrize("change", ["no file", "another step", "another split"])
def test_averaged_weights_without_scores_of_their_own_have_none(checkpoint: Path, change: str) -> None:
    scores = checkpoint.parent.parent / "evaluation-ema.json"
    if change == "no file":
        scores.unlink()
    elif change == "another split":
        scores.write_text(json.dumps({"sources": {"clips": {**AVERAGED["sources"]["clips"], "split": "val"}}}))
    else:
        (checkpoint / "manifest.json").unlink()
        described = json.loads((checkpoint / "config.json").read_text())
        (checkpoint / "config.json").write_text(json.dumps({**described, "metrics": {**METRICS, "step": 2}}))
    assert "metrics" not in take_model(checkpoint, "ema")[1]


def test_scores_in_no_known_form_and_an_average_that_is_not_there(checkpoint: Path) -> None:
    (checkpoint.parent.parent / "evaluation-ema.json").write_text('{"sources": {"clips": {"split": "test"}}}')
    with pytest.raises(DataError, match=r"evaluation-ema\.json: field 'sources'"):
        take_model(checkpoint, "ema")
    (checkpoint / "ema.safetensors").unlink()
    with pytest.raises(DataError, match="the run kept no moving average"):
        take_model(checkpoint, "ema")
