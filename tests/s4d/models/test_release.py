from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from s4d.config import MoaeConfig, ModelConfig
from s4d.errors import DataError, UsageError
from s4d.models.build import build_finetune, build_pretrain
from s4d.models.folder import read_architecture, read_config, read_tensors
from s4d.models.release import from_release, import_release, to_release
from s4d.models.sizes import architecture
from s4d.models.weights import load_initial

CLASSES = {"image": tuple("abcdefg"), "video": tuple("hijklmnopqr")}
TWICE = {**CLASSES, "image": tuple("abcdefa")}


def pretrained_state() -> dict[str, Tensor]:
    arch = architecture(ModelConfig(size="tiny", depth=2, decoder_depth=1), experts=False)
    return dict(build_pretrain(arch, seed=0).state_dict())


def finetuned_state() -> dict[str, Tensor]:
    moae = MoaeConfig(router_noise="always", zero_init=False)
    arch = architecture(ModelConfig(size="tiny", depth=3, moae=moae), experts=True)
    return dict(build_finetune(arch, {name: len(labels) for name, labels in CLASSES.items()}, seed=0).state_dict())


def test_names_of_the_released_experts() -> None:
    released = to_release(finetuned_state())
    assert released["blocks.2.moe_layer.experts.7.fc1.weight"].shape == (48, 192)
    assert released["blocks.1.moe_layer.router.topkroute_linear.bias"].shape == (8,)
    assert released["blocks.1.moe_layer.router.noise_linear.weight"].shape == (8, 192)
    assert not [name for name in released if "moae" in name]
    assert sum(".moe_layer." in name for name in released) == 2 * (8 * 4 + 4)


@pytest.mark.parametrize("state", [pretrained_state(), finetuned_state()], ids=["pretrained", "finetuned"])
def test_round_trip(state: dict[str, Tensor]) -> None:
    released = to_release(state)
    ours, mapped, combined = from_release(released)
    assert set(mapped) | set(combined) == set(released) and not set(mapped) & set(combined)
    assert set(ours) == set(state) and all(torch.equal(ours[name], value) for name, value in state.items())


def test_pretraining_file(tmp_path: Path) -> None:
    state = pretrained_state()
    beside = {"optimizer": {"state": {}}, "epoch": 100, "loss": {}, "steps": 1, "scaler": None}
    content = {"model": to_release(state), **beside}
    torch.save(content, tmp_path / "checkpoint.torch")
    report = import_release(tmp_path / "checkpoint.torch", tmp_path / "out")
    assert set(report.mapped) == set(state) and not report.unused and not report.missing
    assert all(torch.equal(value, state[name]) for name, value in read_tensors(tmp_path / "out").items())
    assert read_architecture(tmp_path / "out").num_heads == 3
    arch = architecture(ModelConfig(size="tiny", depth=2), experts=False)
    load_initial(build_finetune(arch, {"image": 7}, seed=9), tmp_path / "out")


def test_finetuned_file_with_its_command_line(tmp_path: Path) -> None:
    state = finetuned_state()
    content = {"model": to_release(state), "args": argparse.Namespace(lr=1e-5, device="cuda"), "optimizer": None}
    torch.save(content, tmp_path / "best.pth")
    report = import_release(tmp_path / "best.pth", tmp_path / "out", classes=CLASSES)
    assert len(report.mapped) + len(report.transformed) == len(to_release(state))
    config = read_config(tmp_path / "out")
    assert (config["stage"], config["classes"]["video"]) == ("finetune", list("hijklmnopqr"))
    experts = read_architecture(tmp_path / "out").experts
    assert experts is not None
    assert (experts.layers, experts.num_experts, experts.hidden_dim, experts.capacity_factor) == ((1, 2), 8, 48, 1.0)


def test_class_names_are_needed(tmp_path: Path) -> None:
    torch.save({"model": to_release(finetuned_state())}, tmp_path / "best.pth")
    for classes, named in (
        ({}, "'image'"),
        ({**CLASSES, "image": ("a",)}, "7 classes"),
        ({**CLASSES, "x": ()}, "'x'"),
        (TWICE, "given twice"),
    ):
        with pytest.raises(UsageError, match=named):
            import_release(tmp_path / "best.pth", tmp_path / "out", classes=classes)
    assert not (tmp_path / "out").exists()


class Poison:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    content = {"model": {"x": torch.zeros(1)}, "args": argparse.Namespace(inner=Poison(str(tmp_path / "hit")))}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(DataError, match=r"evil\.pth: refused"):
        import_release(tmp_path / "evil.pth", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth"]


@pytest.mark.parametrize(
    "content",
    [
        {"model": {}},
        {"model": {"a": 1}},
        [1, 2],
        {"model": {"mask_token": torch.zeros(1)}},
        {"weights": torch.zeros(2)},
    ],
    ids=["empty", "no tensors", "a list", "no encoder", "another model"],
)
def test_other_files_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(DataError, match=r"file\.pth"):
        import_release(tmp_path / "file.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_and_surplus_tensors_are_named(tmp_path: Path) -> None:
    state = to_release(pretrained_state())
    del state["encoder.blocks.0.attn.q_bias"]
    torch.save({"model": state}, tmp_path / "file.pth")
    with pytest.raises(DataError, match=r"encoder\.blocks\.0\.attn\.q_bias"):
        import_release(tmp_path / "file.pth", tmp_path / "out")
    torch.save({"model": {**to_release(pretrained_state()), "extra": torch.zeros(1)}}, tmp_path / "file.pth")
    with pytest.raises(DataError, match="'extra': expected no such tensor"):
        import_release(tmp_path / "file.pth", tmp_path / "out")


EXPERT = "blocks.1.moe_layer.experts.3.fc1.weight"
# What is added to a released file, and what is said of it.
REFUSED: tuple[tuple[dict[str, Tensor], str], ...] = (
    ({EXPERT: torch.zeros(3, 3)}, "experts differ in shape: .3, 3. in expert 3"),
    ({EXPERT: torch.zeros(48, 192, dtype=torch.int32)}, "'blocks.1.moe_layer.experts.3.fc1.weight': expected floating"),
    ({EXPERT.replace(".3.", ".03."): torch.zeros(48, 192)}, "two tensors of the file are the same part"),
    ({"blocks.1.moae.fc1_weight": torch.zeros(8, 48, 192)}, "two tensors of the file are the same part"),
    ({"blocks.1.moae.router_weight": torch.zeros(8, 192)}, "two tensors of the file are the same part"),
    ({"x.moae.y": torch.zeros(1)}, "'x.moae.y': has no number of a block"),
    ({"head.image.weight": torch.tensor(1.0)}, "tensor 'head.image.weight': not of a released model"),
    ({"head.weight": torch.zeros(3, 192)}, "tensor 'head.weight': not of a released model, .* --from names"),
    ({"head.keys.weight": torch.zeros(3, 192)}, "a head with such a name cannot be built"),
)


@pytest.mark.parametrize(("added", "words"), REFUSED, ids=[next(iter(row[0])) for row in REFUSED])
def test_tensors_that_would_be_lost_or_fit_nothing(tmp_path: Path, added: dict[str, Tensor], words: str) -> None:
    state = {**to_release(finetuned_state()), **added}
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "file.safetensors")
    with pytest.raises(DataError, match=rf"file\.safetensors: .*{words}"):
        import_release(tmp_path / "file.safetensors", tmp_path / "out", classes={**CLASSES, "keys": ("a", "b", "c")})
    assert not (tmp_path / "out").exists()


def test_names_that_no_header_may_hold(tmp_path: Path) -> None:
    torch.save({"model": {**to_release(pretrained_state()), "__metadata__": torch.zeros(1)}}, tmp_path / "file.pth")
    with pytest.raises(DataError, match=r"^[^:]*file\.pth: "):
        import_release(tmp_path / "file.pth", tmp_path / "out")


def test_a_tensor_that_is_repeated_beyond_memory(tmp_path: Path) -> None:
    torch.save({"model": {"x": torch.zeros(1).expand(1 << 40)}}, tmp_path / "file.pth")
    with pytest.raises(DataError, match="takes more memory than its size explains"):
        import_release(tmp_path / "file.pth", tmp_path / "out")


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    torch.save({"model": to_release(pretrained_state())}, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"cut\.pth"):
        import_release(path, tmp_path / "out")
