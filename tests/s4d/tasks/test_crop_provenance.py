"""The crop recipe in a checkpoint, and the line where another run brings other crops."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from s4d.config import Config
from s4d.data.manifest_io import read_manifest, write_manifest
from s4d.models.folder import write_folder
from s4d.tasks import build_task
from s4d.tasks.crop_provenance import crops_of, stored_crops, warn_of_changed_crops
from s4d.tasks.evaluate_run import Request, evaluate_run

EYES, BOX = "eyes-224-m0.15-e0.4-frame-w5-black-jpg95", "none-224-m0.15-e0.4-clip-w5-black-jpg95"
CPU = torch.device("cpu")


@pytest.fixture
def own_manifests(manifests: Path, tmp_path: Path) -> Path:
    """Manifests that a test may change; the media stay where they are."""
    (tmp_path / "manifests").mkdir()
    for path in manifests.glob("*.csv"):
        shutil.copy(path, tmp_path / "manifests")
    return tmp_path / "manifests"


def set_crop(config: Config, name: str, crop: str) -> None:
    """Say in a source's manifest that its faces were cut out with `crop`."""
    path = Path(next(source.manifest for source in config.data.sources if source.name == name))
    write_manifest(replace(read_manifest(path), crop=crop), path)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_recipes_go_into_the_checkpoint(config_of: Callable[..., Config], own_manifests: Path, name: str) -> None:
    config = config_of(name, manifests=own_manifests)
    set_crop(config, "clips", EYES)
    task = build_task(config, rank=0, world_size=1, device=CPU)
    assert json.loads(json.dumps(task.describe()))["crop"] == {"faces": "", "clips": EYES}


def test_weights_from_other_crops(
    config_of: Callable[..., Config], own_manifests: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of("pretrain", manifests=own_manifests)
    set_crop(config, "clips", EYES)
    pretrained = build_task(config, rank=0, world_size=1, device=CPU)
    write_folder(tmp_path / "weights", pretrained.module.state_dict(), pretrained.describe())
    finetune = config_of(manifests=own_manifests, model={"init_from": str(tmp_path / "weights")})
    build_task(finetune, rank=0, world_size=1, device=CPU)
    assert warnings(caplog) == []
    set_crop(finetune, "faces", BOX)
    build_task(finetune, rank=1, world_size=2, device=CPU)
    assert warnings(caplog) == []
    build_task(finetune, rank=0, world_size=1, device=CPU)
    assert warnings(caplog) == [f"source faces: crops are {BOX}, the weights of model.init_from were trained on {EYES}"]


def test_data_cropped_anew_since_training(
    config_of: Callable[..., Config], own_manifests: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(manifests=own_manifests)
    set_crop(config, "clips", EYES)
    write_folder(tmp_path / "model", {"x": torch.zeros(1)}, {"crop": crops_of(config)})
    warn_of_changed_crops(tmp_path / "model", crops_of(config))
    assert warnings(caplog) == []
    set_crop(config, "clips", BOX)
    warn_of_changed_crops(tmp_path / "model", crops_of(config))
    assert warnings(caplog) == [f"source clips: the model was trained on crops {EYES}, its manifest now has {BOX}"]


def test_evaluation_says_so(
    config_of: Callable[..., Config], own_manifests: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(manifests=own_manifests)
    task = build_task(config, rank=0, world_size=1, device=CPU)
    write_folder(tmp_path / "run", task.module.state_dict(), task.describe())
    (tmp_path / "run/config.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    scores = evaluate_run(tmp_path / "run", Request()).summary
    assert scores and warnings(caplog) == []
    set_crop(config, "clips", BOX)
    assert evaluate_run(tmp_path / "run", Request()).summary == scores
    assert warnings(caplog) == [
        f"source clips: the model was trained on crops of unknown recipe, its manifest now has {BOX}"
    ]


def test_weights_that_know_no_crops(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert stored_crops(tmp_path) == {}
    write_folder(tmp_path / "old", {"x": torch.zeros(1)}, {"stage": "finetune"})
    warn_of_changed_crops(tmp_path / "old", {"clips": EYES})
    assert warnings(caplog) == []
