from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from s4d.errors import DataError
from s4d.models.build import build_finetune, build_pretrain
from s4d.models.folder import find_model, read_architecture, write_folder
from s4d.models.folder_manifest import render_manifest
from s4d.models.sizes import Architecture, MoaeArchitecture
from s4d.models.weights import load_initial

FACES = ("happy", "sad", "calm")


@pytest.fixture
def pretrained(tmp_path: Path, architecture_of: Callable[..., Architecture]) -> Path:
    model = build_pretrain(architecture_of(), seed=5)
    config = {"stage": "pretrain", "architecture": model.arch.to_dict(), "classes": {}}
    write_folder(tmp_path / "pretrained", model.state_dict(), config)
    return tmp_path / "pretrained"


@pytest.fixture
def finetuned(
    tmp_path: Path, architecture_of: Callable[..., Architecture], experts_of: Callable[..., MoaeArchitecture]
) -> Path:
    model = build_finetune(architecture_of(experts=experts_of()), {"faces": 3}, seed=6)
    config = {"stage": "finetune", "architecture": model.arch.to_dict(), "classes": {"faces": FACES}}
    write_folder(tmp_path / "finetuned", model.state_dict(), config)
    return tmp_path / "finetuned"


def test_classifier_from_pretraining(
    pretrained: Path, architecture_of: Callable[..., Architecture], experts_of: Callable[..., MoaeArchitecture]
) -> None:
    source = build_pretrain(architecture_of(), seed=5)
    model = build_finetune(architecture_of(experts=experts_of()), {"faces": 3}, seed=0)
    report = load_initial(model, pretrained, classes={"faces": FACES})
    assert set(report.mapped) | set(report.unused) == set(source.state_dict())
    assert set(report.mapped.values()) | set(report.missing) == set(model.state_dict())
    assert torch.equal(model.blocks[2].mlp.fc1.weight, source.encoder.blocks[2].mlp.fc1.weight)
    assert torch.equal(model.fc_norm.weight, torch.ones(64))
    assert {name.split(".")[0] for name in report.unused} == {"decoder", "encoder", "encoder_to_decoder", "mask_token"}
    assert all(name.startswith(("head", "fc_norm")) or ".moae." in name for name in report.missing)


def test_final_norm_on_request(pretrained: Path, architecture_of: Callable[..., Architecture]) -> None:
    model = build_finetune(architecture_of(), {"faces": 3}, seed=0)
    report = load_initial(model, pretrained, init_final_norm=True)
    assert report.mapped["encoder.norm.weight"] == "fc_norm.weight"


def test_classifier_from_classifier(
    finetuned: Path, architecture_of: Callable[..., Architecture], experts_of: Callable[..., MoaeArchitecture]
) -> None:
    source = build_finetune(architecture_of(experts=experts_of()), {"faces": 3}, seed=6)
    model = build_finetune(architecture_of(experts=experts_of()), {"faces": 3, "clips": 4}, seed=0)
    report = load_initial(model, finetuned, classes={"faces": FACES, "clips": ("a", "b", "c", "d")})
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items())
    assert set(report.missing) == {"head.clips.weight", "head.clips.bias"}


def test_head_of_another_class_list_starts_anew(
    finetuned: Path, architecture_of: Callable[..., Architecture], experts_of: Callable[..., MoaeArchitecture]
) -> None:
    model = build_finetune(architecture_of(experts=experts_of()), {"faces": 3}, seed=0)
    before = model.head["faces"].weight.clone()
    report = load_initial(model, finetuned, classes={"faces": ("sad", "happy", "calm")})
    assert torch.equal(model.head["faces"].weight, before)
    assert report.unused["head.faces.weight"] == report.missing["head.faces.weight"] == "another list of classes"


def test_pretraining_goes_on_from_pretraining(pretrained: Path, architecture_of: Callable[..., Architecture]) -> None:
    model = build_pretrain(architecture_of(), seed=0)
    report = load_initial(model, pretrained)
    assert not report.unused and not report.missing
    assert torch.equal(model.mask_token, build_pretrain(architecture_of(), seed=5).mask_token)


def test_another_size_is_refused(pretrained: Path, architecture_of: Callable[..., Architecture]) -> None:
    wide = build_finetune(architecture_of(embed_dim=128), {"faces": 3}, seed=0)
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    with pytest.raises(DataError, match=r"model.safetensors.*shape \(.*\), this model needs \(.*another size"):
        load_initial(wide, pretrained)
    assert all(torch.equal(value, before[name]) for name, value in wide.state_dict().items())
    deep = build_finetune(architecture_of(depth=4), {"faces": 3}, seed=0)
    with pytest.raises(DataError, match=r"lacks tensor 'blocks\.3"):
        load_initial(deep, pretrained)


def test_run_folders_lead_to_their_newest_checkpoint(tmp_path: Path, pretrained: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    pretrained.rename(run / "checkpoints" / "step-00000020")
    with pytest.raises(DataError, match="neither"):
        find_model(run)
    (run / "checkpoints" / "latest").write_text("step-00000020\n")
    found = find_model(run)
    assert found == run / "checkpoints" / "step-00000020"
    assert find_model(found) == find_model(found / "model.safetensors") == found
    (run / "checkpoints" / "latest").write_text("step-00000040\n")
    with pytest.raises(DataError, match="step-00000040"):
        find_model(run)


@pytest.mark.parametrize("content", [b"", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", b"PK\x03\x04" * 64])
def test_broken_files_are_named(pretrained: Path, architecture_of: Callable[..., Architecture], content: bytes) -> None:
    (pretrained / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors: not the file of \d+ bytes"):
        load_initial(build_pretrain(architecture_of(), seed=0), pretrained)
    (pretrained / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors: not a readable"):
        load_initial(build_pretrain(architecture_of(), seed=0), pretrained)


def test_same_bytes_under_another_type_are_refused(
    pretrained: Path, architecture_of: Callable[..., Architecture]
) -> None:
    """Also where whoever changed the type made the checksums of header and manifest agree with it."""
    path, manifest = pretrained / "model.safetensors", pretrained / "manifest.json"
    data = path.read_bytes().replace(b'"F32"', b'"I32"', 1)
    path.write_bytes(data)
    files = json.loads(manifest.read_text())["files"]
    start = 8 + int.from_bytes(data[:8], "little")
    files["model.safetensors"]["header"] = hashlib.sha256(data[:start]).hexdigest()
    manifest.write_bytes(render_manifest(files))
    with pytest.raises(DataError, match="its type or shape differs"):
        load_initial(build_pretrain(architecture_of(), seed=0), pretrained)


def test_missing_folder(tmp_path: Path, architecture_of: Callable[..., Architecture]) -> None:
    with pytest.raises(DataError, match="nowhere"):
        load_initial(build_pretrain(architecture_of(), seed=0), tmp_path / "nowhere")


def test_stated_architecture(finetuned: Path, experts_of: Callable[..., MoaeArchitecture]) -> None:
    assert read_architecture(finetuned).experts == experts_of()
    config = json.loads((finetuned / "config.json").read_text())
    config["architecture"]["wheels"] = 4
    (finetuned / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"config\.json: damaged"):
        read_architecture(finetuned)
    (finetuned / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"config\.json: field 'architecture'.*wheels"):
        read_architecture(finetuned)


def test_folders_are_not_overwritten(pretrained: Path) -> None:
    before = sorted(pretrained.parent.iterdir())
    with pytest.raises(DataError, match="already exists"):
        write_folder(pretrained, {"x": torch.zeros(1)}, {})
    assert sorted(pretrained.parent.iterdir()) == before


def test_changed_expert_count_is_refused(
    finetuned: Path, architecture_of: Callable[..., Architecture], experts_of: Callable[..., MoaeArchitecture]
) -> None:
    arch = architecture_of(experts=dataclasses.replace(experts_of(), num_experts=6))
    with pytest.raises(DataError, match="another size"):
        load_initial(build_finetune(arch, {"faces": 3}, seed=0), finetuned)
