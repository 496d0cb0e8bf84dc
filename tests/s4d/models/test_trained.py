from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from s4d.errors import DataError
from s4d.models.build import build_finetune
from s4d.models.folder import MODEL_FILE, write_folder
from s4d.models.sizes import Architecture, MoaeArchitecture
from s4d.models.trained import load_trained

CLASSES = {"faces": ["happy", "sad", "calm"], "clips": ["sad", "happy"]}
INPUTS = {"faces": {"modality": "image"}, "clips": {"modality": "video"}}


@pytest.fixture
def folder_of(
    tmp_path: Path, architecture_of: Callable[..., Architecture], experts_of: Callable[..., MoaeArchitecture]
) -> Callable[..., Path]:
    def write(place: str = "model", **changes: object) -> Path:
        model = build_finetune(architecture_of(experts=experts_of()), {"faces": 3, "clips": 2}, seed=6)
        described = {"stage": "finetune", "architecture": model.arch.to_dict(), "classes": CLASSES, "inputs": INPUTS}
        described = {key: value for key, value in {**described, **changes}.items() if value is not None}
        write_folder(tmp_path / place, model.state_dict(), described)
        return tmp_path / place

    return write


def write_run_config(run: Path) -> None:
    sources = [
        {"name": "faces", "modality": "image", "manifest": "faces.csv"},
        {"name": "clips", "modality": "video", "manifest": "clips.csv"},
    ]
    values = {
        "name": "run",
        "run_dir": "run",
        "task": "finetune",
        "data": {"sources": sources},
        "batch": {"per_step": {"faces": 2, "clips": 2}},
        "optim": {"lr": 1e-3},
        "engine": {"steps": 4},
        "model": {"init_from": "gone"},
    }
    (run / "config.yaml").write_text(json.dumps(values))


def test_every_form_of_path_gives_the_same_model(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    folder = folder_of("run/checkpoints/step-00000004")
    (tmp_path / "run/checkpoints/latest").write_text("step-00000004\n")
    found = [load_trained(path, device="cpu") for path in (tmp_path / "run", folder, folder / MODEL_FILE)]
    for trained in found:
        assert trained.folder == folder
        assert trained.classes == {name: tuple(names) for name, names in CLASSES.items()}
        assert trained.modalities == {"faces": "image", "clips": "video"}
        assert not trained.module.training
        assert trained.run_config is None
        expected = build_finetune(trained.arch, {"faces": 3, "clips": 2}, seed=6).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in trained.module.state_dict().items())


def test_a_folder_that_says_nothing_is_answered_for_by_its_run(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    folder = folder_of("run/checkpoints/step-00000004", inputs=None)
    with pytest.raises(DataError, match=r"config\.json: field 'inputs': does not say whether head 'faces'"):
        load_trained(folder, device="cpu")
    write_run_config(tmp_path / "run")
    trained = load_trained(folder, device="cpu")
    assert trained.modalities == {"faces": "image", "clips": "video"}
    assert trained.run_config == tmp_path / "run/config.yaml"


def test_another_pointer(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    folder = folder_of("run/checkpoints/step-00000002")
    (tmp_path / "run/checkpoints/best").write_text("step-00000002\n")
    assert load_trained(tmp_path / "run", device="cpu", pointer="best").folder == folder
    with pytest.raises(DataError, match="checkpoints/latest"):
        load_trained(tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"stage": "pretrain"}, "field 'stage'"),
        ({"classes": {}}, "field 'classes'"),
        ({"classes": {"faces": "happy"}}, "field 'classes'"),
        ({"classes": {**CLASSES, "clips": ["sad"]}}, "does not fit"),
        ({"classes": {**CLASSES, "more": ["a", "b"]}}, "head 'more'"),
        ({"architecture": {"depth": 3}}, "field 'architecture'"),
        ({"inputs": {**INPUTS, "clips": {"modality": "sound"}}}, "field 'inputs'.*'clips'"),
        ({"inputs": {"faces": {"modality": "image"}, "clips": "video"}}, "field 'inputs'.*'clips'"),
    ],
)
def test_what_is_wrong_is_named(folder_of: Callable[..., Path], changes: dict[str, object], named: str) -> None:
    with pytest.raises(DataError, match=named):
        load_trained(folder_of(**changes), device="cpu")
