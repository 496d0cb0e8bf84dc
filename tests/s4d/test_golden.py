from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from s4d.errors import DataError
from s4d.golden import replay, replay_all
from s4d.golden.report import compare
from s4d.models.build import build_finetune
from s4d.models.release import to_release
from s4d.models.sizes import Architecture, MoaeArchitecture

ROOT = Path(__file__).resolve().parents[2]
KEPT = sorted((ROOT / "tests" / "golden").glob("*.safetensors"))
GIVEN = sorted(Path(os.environ.get("S4D_GOLDEN") or ROOT.parent / "shared" / "golden").glob("*.safetensors"))


def test_the_kept_files_are_there() -> None:
    names = {path.stem for path in KEPT}
    assert names == {"pretrain_tiny", "finetune_dropless", "finetune_noise", "finetune_capacity"}


@pytest.mark.parametrize("path", KEPT + GIVEN, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_replay(path: Path) -> None:
    """float64 with the references, float32 with every backend; a refusal states its reason."""
    reports = replay_all([path])
    assert not [(report.backends, report.dtype, report.worst) for report in reports if not report.passed]
    assert [report.dtype for report in reports if report.checks].count("float64") == 1
    assert all(report.refusal for report in reports if not report.checks)
    assert sum(bool(report.checks) for report in reports) >= 3
    assert json.loads(json.dumps(reports[0].to_dict()))["passed"]


def load(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(ROOT / "tests" / "golden" / f"{name}.safetensors", framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("finetune_capacity", "video.moe_out.2"),
        ("finetune_noise", "image.noise.1"),
        ("finetune_noise", "video.grad.blocks.1.moe_layer.router.noise_linear.weight"),
        ("finetune_dropless", "image.aux_loss"),
        ("pretrain_tiny", "pos_embed.decoder"),
        ("pretrain_tiny", "video.pred"),
    ],
)
def test_a_changed_tensor_is_found(tmp_path: Path, name: str, tensor: str) -> None:
    tensors, metadata = load(name)
    tensors[tensor] = tensors[tensor] * 1.001
    save_file(tensors, tmp_path / "changed.safetensors", metadata)
    report = replay(tmp_path / "changed.safetensors")
    failed = [check.name for check in report.checks if not check.passed]
    assert not report.passed and failed and (tensor in failed or ".noise." in tensor)


def test_a_changed_choice_is_found(tmp_path: Path) -> None:
    tensors, metadata = load("finetune_dropless")
    name = "video.topk.blocks.2.moe_layer.router"
    tensors[name][0, 0] = tensors[name][0, 0].flip(0)
    save_file(tensors, tmp_path / "changed.safetensors", metadata)
    report = replay(tmp_path / "changed.safetensors")
    assert [check.name for check in report.checks if not check.passed] == [name]


def test_unknown_tensors_are_a_failure(tmp_path: Path) -> None:
    tensors, metadata = load("finetune_dropless")
    save_file({**tensors, "image.mystery": torch.zeros(1)}, tmp_path / "more.safetensors", metadata)
    report = replay(tmp_path / "more.safetensors")
    assert report.unaccounted == ("image.mystery",) and not report.passed


def test_missing_parts_are_named(tmp_path: Path) -> None:
    tensors, metadata = load("finetune_dropless")
    path = tmp_path / "less.safetensors"
    for name, match in (("state.fc_norm.bias", "fc_norm.bias"), ("image.logits", "'image.logits' is missing")):
        save_file({key: value for key, value in tensors.items() if key != name}, path, metadata)
        with pytest.raises(DataError, match=match):
            replay(path)
    save_file(tensors, path, {})
    with pytest.raises(DataError, match="not a golden file"):
        replay(path)
    config = json.loads(metadata["config"])
    del config["depth"]
    save_file(tensors, path, {"config": json.dumps(config)})
    with pytest.raises(DataError, match="depth"):
        replay(path)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"less\.safetensors"):
        replay(path)


def test_errors_are_relative_to_the_stored_norm() -> None:
    stored = torch.tensor([3.0, 4.0])
    check = compare("x", stored + torch.tensor([0.0, 0.5]), stored, torch.float64)
    assert (check.absolute_error, check.relative_error, check.passed) == (0.5, pytest.approx(0.1), False)
    assert compare("x", torch.zeros(2), torch.zeros(2), torch.float32).passed
    assert not compare("x", torch.full((2,), float("nan")), stored, torch.float32).passed
    assert not compare("x", torch.zeros(3), stored, torch.float32).passed
    assert not compare("x", torch.tensor([1]), torch.tensor([2]), torch.float32).passed


def test_an_unknown_backend_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown backend"):
        replay(KEPT[0], attention="nonsense")


def test_other_geometries(tmp_path: Path) -> None:
    """Nothing but the metadata says how large a model is: odd sizes replay, every tensor is met and has its shape."""
    config = {"img_size": 48, "num_frames": 16, "dim": 72, "depth": 4, "heads": 3, "noise": False}
    config |= {"moe": {"layers": [0, 3], "num_experts": 3, "top_k": 3, "capacity_factor": 0.7, "hidden": 5}}
    config |= {"classes": {"image": 2, "video": 5}}
    experts = MoaeArchitecture(layers=(0, 3), num_experts=3, top_k=3, hidden_dim=5, router_noise="always")
    decoder = {"decoder_embed_dim": 72, "decoder_depth": 0, "decoder_num_heads": 3}
    arch = Architecture(embed_dim=72, depth=4, num_heads=3, image_size=48, experts=experts, **decoder)
    state = to_release(build_finetune(arch, {"image": 2, "video": 5}, seed=0).state_dict())
    tensors = {f"state.{name}": value.contiguous() for name, value in state.items()}
    generator = torch.Generator().manual_seed(0)
    for modality, shape, tokens in (("image", (2, 3, 48, 48), 9), ("video", (1, 3, 16, 48, 48), 72)):
        count, classes = shape[0], config["classes"][modality]  # type: ignore[index]
        shapes = {"logits": (count, classes), "feature": (count, 72), "ce": (1,), "aux_loss": (1,)}
        for layer in (0, 3):
            shapes |= {f"moe_in.{layer}": (count, tokens, 72), f"moe_out.{layer}": (count, tokens, 72)}
            shapes[f"gates.blocks.{layer}.moe_layer.router"] = (count, tokens, 3)
        tensors |= {f"{modality}.{name}": torch.zeros(size) for name, size in shapes.items()}
        for layer in (0, 3):
            ids = torch.zeros(count, tokens, 3, dtype=torch.int32)
            tensors[f"{modality}.topk.blocks.{layer}.moe_layer.router"] = ids
        tensors |= {f"{modality}.grad_norm.{name}": torch.zeros(1) for name in state}
        tensors |= {
            f"{modality}.input": torch.rand(shape, generator=generator),
            f"{modality}.label": torch.zeros(count, dtype=torch.int64),
        }
    save_file(tensors, tmp_path / "odd.safetensors", {"config": json.dumps(config)})
    for report in replay_all([tmp_path / "odd.safetensors"]):
        assert report.refusal is not None or report.unaccounted == ()
        assert all(math.isfinite(check.absolute_error) for check in report.checks)
