"""Replay of a stored masked autoencoder: position tables, predictions, targets, losses and gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.reconstruction import patch_targets
from s4d.golden.fixture import Fixture, batch_of
from s4d.golden.report import TensorCheck, compare
from s4d.models.mae import PretrainModel, unnormalised
from s4d.models.release import to_release
from s4d.models.vit import Backends


def replay_pretraining(fixture: Fixture, dtype: torch.dtype, backends: Backends) -> list[TensorCheck]:
    """Checks of every output and gradient in the file."""
    arch = fixture.architecture()
    model = PretrainModel(arch, backends)
    fixture.load_state(model)
    model.to(dtype)
    tables = {"encoder": model.encoder_positions, "decoder": model.decoder_positions}
    checks = []
    for name, stored in fixture.named("pos_embed.").items():
        if name in tables:
            checks.append(compare(f"pos_embed.{name}", tables[name][: stored.shape[0]], stored, dtype))
    for modality in fixture.modalities:
        batch = batch_of(fixture, modality, arch, dtype)
        model.zero_grad(set_to_none=True)
        loss = model(batch)[modality] / batch.masked_indices.shape[0]
        loss.backward()
        pixels = batch.groups[0].pixels
        every = torch.arange(batch.positions.shape[0])
        with torch.no_grad():
            prediction = model(batch, predict=True)["prediction"]
        outputs = {
            "loss": loss.view(1),
            "pred": prediction.view(pixels.shape[0], -1, arch.token_values),
            "target": patch_targets(unnormalised(pixels), every, arch.patch_size, arch.tubelet_size).view(
                pixels.shape[0], -1, arch.token_values
            ),
        }
        for name, ours in outputs.items():
            checks.append(compare(f"{modality}.{name}", ours, fixture.take(f"{modality}.{name}"), dtype))
        checks += gradient_checks(fixture, modality, model, dtype)
    return checks


def gradient_checks(fixture: Fixture, modality: str, model: torch.nn.Module, dtype: torch.dtype) -> list[TensorCheck]:
    """Gradients and gradient norms under the released names; a name the model does not have counts as zero."""
    gradients: dict[str, Tensor] = to_release(
        {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    )
    checks = []
    for kind in ("grad", "grad_norm"):
        for name, stored in fixture.named(f"{modality}.{kind}.").items():
            ours = gradients.get(name, torch.zeros(0))
            if kind == "grad_norm":
                ours = ours.double().norm().view(1)
            checks.append(compare(f"{modality}.{kind}.{name}", ours, stored, dtype))
    return checks
