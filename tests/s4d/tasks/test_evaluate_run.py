from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from s4d.analysis.predictions import read_predictions
from s4d.analysis.run_folder import read_run
from s4d.config import Config
from s4d.errors import DataError, UsageError
from s4d.models.folder import write_folder
from s4d.tasks import build_task
from s4d.tasks.evaluate_run import Request, evaluate_run

CPU = torch.device("cpu")


def make_run(config: Config, folder: Path, steps: int = 1) -> Path:
    """A run with a checkpoint for each step, of other weights, its first being the best."""
    task = build_task(config, rank=0, world_size=1, device=CPU)
    for step in range(steps):
        with torch.no_grad():
            for parameter in task.module.parameters():
                parameter.mul_(1 + step)
        name = f"step-{step + 1:08d}"
        write_folder(folder / "checkpoints" / name, task.module.state_dict(), task.describe())
        (folder / "checkpoints" / "latest").write_text(f"{name}\n")
    (folder / "checkpoints" / "best").write_text("step-00000001\n")
    (folder / "config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    return folder


@pytest.fixture
def run(config_of: Callable[..., Config], manifests: Path, tmp_path: Path) -> Path:
    return make_run(config_of(manifests=manifests), tmp_path / "run", steps=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_scores_of_a_run(run: Path, tmp_path: Path) -> None:
    before = contents(run)
    found = evaluate_run(run, Request(dynamics=True))
    document = found.to_dict()
    assert (document["checkpoint"], document["chosen"], document["weights"]) == ("step-00000002", "the newest", "last")
    assert document["views"] == {"temporal": 2, "spatial": 1}
    clips = document["sources"]["clips"]
    assert document["scores"]["clips.uar"] == clips["uar"] == clips["intervals"]["uar"]["value"]
    assert clips["intervals"]["uar"]["low"] <= clips["uar"] <= clips["intervals"]["uar"]["high"]
    assert 0 <= clips["brier"] <= 2 and 0 <= clips["ece"] <= 1 and clips["num_classes_without_samples"] == 1
    assert clips["intervals"]["recall"]["s"] is None
    assert set(clips["dynamics"]) == {"shuffled", "reversed", "frozen"}
    assert "dynamics" not in document["sources"]["faces"]
    found.write(tmp_path / "out")
    assert contents(run) == before, "the run folder stays as it is"
    assert json.loads((tmp_path / "out/evaluation.json").read_text()) == json.loads(json.dumps(document))
    stored = read_predictions(tmp_path / "out/predictions.npz")
    np.testing.assert_allclose(stored["clips"].probabilities, found.results["clips"].probabilities, rtol=1e-5)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"predictions.csv", "routing.json"}
    assert [head.source for head in read_run(tmp_path / "out").scores["last"]] == ["faces", "clips"]


def test_which_checkpoint_and_weights(run: Path, config_of: Callable[..., Config], manifests: Path) -> None:
    newest, best = (evaluate_run(run, Request(pointer=pointer)) for pointer in ("latest", "best"))
    assert (newest.checkpoint.name, best.checkpoint.name) == ("step-00000002", "step-00000001")
    assert best.chosen == "best None on the val split"
    assert not np.array_equal(newest.results["clips"].logits, best.results["clips"].logits)
    with pytest.raises(UsageError, match=r"step-00000002: has no ema\.safetensors"):
        evaluate_run(run, Request(weights="ema"))
    # The averaged weights of the newest checkpoint are made those of the first.
    first, second = (run / f"checkpoints/step-0000000{number}" for number in (1, 2))
    (second / "ema.safetensors").write_bytes((first / "model.safetensors").read_bytes())
    with pytest.raises(DataError, match=r"ema\.safetensors: not in manifest\.json"):
        evaluate_run(run, Request(weights="ema"))
    (second / "manifest.json").unlink()
    averaged = evaluate_run(run, Request(weights="ema"))
    assert np.array_equal(averaged.results["clips"].logits, best.results["clips"].logits)


def test_the_released_protocol(
    config_of: Callable[..., Config], manifests: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(manifests=manifests, evaluation={"protocol": "release", "temporal_views": 3})
    run = make_run(config, tmp_path / "run", steps=2)
    found = evaluate_run(run, Request(protocol="release"))
    assert (found.checkpoint.name, found.chosen) == ("step-00000001", "best None on the test split")
    logits = found.results["clips"].logits
    assert logits.shape[1] == 4, "two windows and two crops"
    assert np.allclose(logits[:, 0], logits[:, 1]) and np.allclose(logits[:, 2], logits[:, 3]), "equal crops"
    assert caplog.records == []
    with pytest.raises(UsageError, match="--pointer best: was selected on the test split"):
        evaluate_run(run, Request(pointer="best"))
    with pytest.raises(UsageError, match="--split val: protocol release"):
        evaluate_run(run, Request(protocol="release", split="val"))
    own = evaluate_run(run, Request())
    assert (own.checkpoint.name, own.results["clips"].logits.shape[1]) == ("step-00000002", 3)
    (run / "checkpoints/best").unlink()
    with caplog.at_level(logging.WARNING):
        assert evaluate_run(run, Request(protocol="release")).checkpoint.name == "step-00000002"
    assert "the newest checkpoint is scored" in caplog.text


def test_a_run_with_data_held_out_by_the_released_protocol(
    config_of: Callable[..., Config], manifests: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = config_of(manifests=manifests)
    config = config_of(manifests=manifests, data={**plain.data.model_dump(), "val_share": 0.5})
    run = make_run(config, tmp_path / "run", steps=2)
    found = evaluate_run(run, Request(protocol="release"))
    assert (found.checkpoint.name, found.chosen) == ("step-00000001", "best None on the val split")
    assert "this run's best is that of its val split" in caplog.text
    assert {name: len(result.labels) for name, result in found.results.items()} == {"faces": 10, "clips": 7}
    held = evaluate_run(run, Request(split="val")).results
    assert {name: len(result.labels) for name, result in held.items()} == {"faces": 1, "clips": 1}


def test_views_and_data_are_the_users(run: Path) -> None:
    found = evaluate_run(run, Request(overrides=("evaluation.temporal_views=3",)))
    assert found.results["clips"].logits.shape[1] == 3
    with pytest.raises(UsageError, match=r"classes: source clips has q, p, r, s; its head was trained on p, q, r, s"):
        evaluate_run(run, Request(overrides=("data.sources.1.classes=[q,p,r,s]",)))
    with pytest.raises(UsageError, match="has no val split"):
        evaluate_run(run, Request(split="val"))
    with pytest.raises(UsageError, match=r"evaluation\.temporal_view"):
        evaluate_run(run, Request(overrides=("evaluation.temporal_view=3",)))
