"""The released pattern of computation against recorded results of the released classes, and against our own models."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from s4d.analysis.bench_step import StepCase, StepShape
from s4d.analysis.step_peers.equality import compare, of_ours, of_release, release_equality
from s4d.analysis.step_peers.ours import LossModel
from s4d.analysis.step_peers.release_eager import (
    ReleaseFinetune,
    ReleaseInputs,
    ReleasePretrain,
    normalised_target,
    release_inputs,
    release_model,
)
from s4d.analysis.step_peers.release_layers import ReleaseRouter
from s4d.analysis.step_peers.side import Trial, build_trial
from s4d.golden.finetune import AUXILIARY_WEIGHT
from s4d.golden.fixture import Fixture, batch_of
from s4d.golden.report import TensorCheck
from s4d.golden.report import compare as checked
from s4d.models.classifier import FinetuneModel
from s4d.models.mae import PretrainModel

ROOT = Path(__file__).resolve().parents[4]
FOLDERS = (ROOT / "tests" / "golden", Path(os.environ.get("S4D_GOLDEN") or ROOT.parent / "shared" / "golden"))
GOLDEN = [path for folder in FOLDERS for path in sorted(folder.glob("*.safetensors"))]

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"size": "tiny", "side": 32, "frames": 4}
SHAPES = {
    "pretrain_images": StepShape(task="pretrain", images=3, clips=0, **SMALL),
    "pretrain_clips": StepShape(task="pretrain", images=0, clips=2, **{**SMALL, "frames": 16}),
    "finetune_capacity": StepShape(task="finetune", images=0, clips=3, capacity_factor=1.0, **SMALL),
    "finetune_packed": StepShape(task="finetune", images=2, clips=2, **SMALL),
}


def trial_of(name: str) -> Trial:
    return build_trial(StepCase(name=name, shape=SHAPES[name]), CPU)


def test_all_golden_files_are_met() -> None:
    assert {path.stem for path in GOLDEN} >= {
        "pretrain_tiny",
        "finetune_dropless",
        "finetune_noise",
        "finetune_capacity",
    }


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recorded_results(path: Path) -> None:
    """Losses, outputs and every recorded gradient of the released classes, in float64."""
    fixture = Fixture(path)
    arch = fixture.architecture()
    ours = PretrainModel(arch) if fixture.pretrained else FinetuneModel(arch, fixture.config["classes"])
    fixture.load_state(ours)
    model = release_model(ours.double())
    for modality in fixture.modalities:
        (inputs,) = release_inputs(batch_of(fixture, modality, arch, torch.float64), arch, torch.float64)
        model.zero_grad(set_to_none=True)
        if isinstance(model, ReleasePretrain):
            outputs = _pretrained(model, inputs)
        else:
            outputs = _classified(model, _as_recorded(fixture, inputs))
        checks = [
            checked(name, value, fixture.take(f"{modality}.{name}"), torch.float64) for name, value in outputs.items()
        ]
        checks += _gradient_checks(fixture, modality, model)
        assert len(checks) > len(outputs) + 10
        assert not [check for check in checks if not check.passed]


def _pretrained(model: ReleasePretrain, inputs: ReleaseInputs) -> dict[str, Tensor]:
    loss = model(inputs)
    loss.backward()
    return {
        "loss": loss.view(1),
        "pred": model.predict(inputs.frames, inputs.mask),
        "target": normalised_target(inputs.frames, model.arch),
    }


def _as_recorded(fixture: Fixture, inputs: ReleaseInputs) -> ReleaseInputs:
    """The recorded labels, and the recorded noise in place of what the batch's keys give."""
    experts, count = fixture.architecture().experts, inputs.frames.shape[0]
    noise = [fixture.named(f"{inputs.modality}.noise.{place}").get("") for place in range(len(experts.layers))]  # type: ignore[union-attr]
    recorded = tuple(each.double().view(count, -1, experts.num_experts) for each in noise if each is not None)  # type: ignore[union-attr]
    labels = fixture.take(f"{inputs.modality}.label")
    targets = F.one_hot(labels, fixture.config["classes"][inputs.modality]).double()
    return dataclasses.replace(inputs, noise=recorded, targets=targets)


def _classified(model: ReleaseFinetune, inputs: ReleaseInputs) -> dict[str, Tensor]:
    """The recorded gradients hold those of the balance term too, which the released loop never applies."""
    terms: list[Tensor] = []

    def balance(router: ReleaseRouter, arguments: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, noise = arguments
        scores = router.topkroute_linear(x)
        if noise is not None:
            assert router.noise_linear is not None
            scores = scores + noise * F.softplus(router.noise_linear(x))
        chosen = F.one_hot(output[1], scores.shape[-1]).sum(2).double().mean(1)
        terms.append((chosen * scores.mean(1)).mean() * scores.shape[-1] ** 2)

    for module in model.modules():
        if isinstance(module, ReleaseRouter):
            module._forward_hooks.clear()
            module.register_forward_hook(balance)
    cross_entropy = model(inputs)
    auxiliary = torch.stack(terms).sum()
    (cross_entropy + AUXILIARY_WEIGHT * auxiliary).backward()
    return {"ce": cross_entropy.view(1), "aux_loss": auxiliary.view(1), "logits": model.logits(inputs)}


def _gradient_checks(fixture: Fixture, modality: str, model: torch.nn.Module) -> list[TensorCheck]:
    gradients = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad
        for name, weight in model.named_parameters()
    }
    checks = []
    for kind in ("grad", "grad_norm"):
        for name, stored in fixture.named(f"{modality}.{kind}.").items():
            value = gradients[name] if kind == "grad" else gradients[name].norm().view(1)
            checks.append(checked(f"{kind}.{name}", value, stored, torch.float64))
    return checks


@pytest.mark.parametrize("name", SHAPES)
def test_equal_to_our_models(name: str) -> None:
    found = release_equality(trial_of(name))
    assert found.passed, found.text
    assert set(found.losses) == {key for key, count in SHAPES[name].samples.items() if count}
    assert len(found.gradients) >= 8


@pytest.mark.parametrize("name", ["pretrain_clips", "finetune_capacity"])
def test_equal_to_our_models_in_float64(name: str) -> None:
    """What is left is the float32 arithmetic that our models keep for pixels in uint8."""
    trial = trial_of(name)
    ours = LossModel(trial.model().double()).train()
    found = compare(of_ours(ours, trial.batch), of_release(release_model(ours.model), trial.batch))
    assert max(found.losses.values()) < 1e-7 and max(found.gradients.values()) < 1e-6, found.text


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("pretrain_clips", "decoder.blocks.2.norm1.bias"),
        ("pretrain_images", "encoder.blocks.5.attn.v_bias"),
        ("finetune_capacity", "blocks.7.moe_layer.experts.3.fc2.bias"),
    ],
)
def test_one_wrong_weight_is_found(name: str, parameter: str) -> None:
    trial = trial_of(name)
    ours = LossModel(trial.model()).train()
    model = release_model(ours.model)
    with torch.no_grad():
        model.get_parameter(parameter)[0] += 0.05
    assert not compare(of_ours(ours, trial.batch), of_release(model, trial.batch)).passed


def test_a_limit_on_the_experts_changes_the_loss() -> None:
    """So that the case with a limit is a check of it."""
    losses = []
    for factor in (1.0, None):
        shape = dataclasses.replace(SHAPES["finetune_capacity"], capacity_factor=factor)
        trial = build_trial(StepCase(name="limited", shape=shape), CPU)
        losses.append(sum(of_release(release_model(trial.model()), trial.batch)[0].values()))
    assert abs(losses[0] - losses[1]) > 1e-4
