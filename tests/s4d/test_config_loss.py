"""What the method itself does not have is off, and refused where it has no meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from s4d.config import load
from s4d.config_recipes import ADDED, not_released
from s4d.errors import UsageError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
FINETUNE = Path(__file__).parents[2] / "configs/finetune/demo.yaml"
PRETRAIN = Path(__file__).parents[2] / "configs/pretrain/demo.yaml"
ON = {"model.moae.modality_prior": "true", "model.moae.shared_experts": "1"}


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(path, list(overrides))
    return str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_preset_has_them_off(path: Path) -> None:
    assert not_released(load(path)) is None


@pytest.mark.parametrize("key", ADDED)
def test_the_release_recipe_refuses_them(key: str) -> None:
    path, setting = PRETRAIN if key == "loss.motion" else FINETUNE, f"{key}={ON.get(key, 0.5)}"
    assert not_released(load(path, ["recipe=s4d", setting])) == key
    free = ["model.moae.capacity_factor=null", "data.val_share=0.0"] if path == FINETUNE else []
    assert f"{key}: the released method has no such thing" in refusal(path, "recipe=release", *free, setting)


@pytest.mark.parametrize(
    ("path", "overrides", "expected"),
    [
        (FINETUNE, ["loss.motion=1"], "loss.motion: fine-tuning reconstructs no frames"),
        (PRETRAIN, ["loss.logit_adjustment=1"], "loss.logit_adjustment: pre-training has no heads"),
        (PRETRAIN, ["loss.static_distillation=1"], "loss.static_distillation: pre-training has no heads"),
        (PRETRAIN, ["loss.cross_labels=1"], "loss.cross_labels: pre-training has no heads"),
        (PRETRAIN, ["loss.motion=1", "model.tubelet_size=1"], "loss.motion: needs a video source and tubelets"),
        (PRETRAIN, ["loss.motion=-1"], "loss.motion"),
        (FINETUNE, ["model.moae.modality_prior=true", "model.moae.capacity_factor=1.0"], "capacity_factor null"),
        (FINETUNE, ["model.moae.shared_experts=-1"], "model.moae.shared_experts"),
    ],
)
def test_refusals_name_the_field(path: Path, overrides: list[str], expected: str) -> None:
    assert expected in refusal(path, *overrides)


@pytest.mark.parametrize("name", ["static_distillation", "cross_labels"])
def test_terms_between_heads_need_both_modalities(name: str) -> None:
    alone = ["mode=single", "data.sources=[{name: x, modality: video, manifest: m}]", "batch.per_step={x: 2}"]
    load(FINETUNE, [*alone, "batch.loss_weights=null"])
    problem = refusal(FINETUNE, *alone, "batch.loss_weights=null", f"loss.{name}=1")
    assert f"loss.{name}: needs an image source and a video source" in problem
