"""Models with real, initialised weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from s4d.models.classifier import FinetuneModel
from s4d.models.initialise import initialise
from s4d.models.mae import PretrainModel
from s4d.models.sizes import Architecture
from s4d.models.vit import Backends


def build_pretrain(arch: Architecture, seed: int, backends: Backends | None = None) -> PretrainModel:
    """Masked autoencoder in float32 on the CPU, initialised from `seed`."""
    # Built without memory first: the framework's own initialisation would cost time and the global generator.
    with torch.device("meta"):
        model = PretrainModel(arch, backends)
    _allocate(model)
    initialise(model, seed)
    return model


def build_finetune(
    arch: Architecture, heads: Mapping[str, int], seed: int, backends: Backends | None = None
) -> FinetuneModel:
    """Classifier with heads of the given class counts in float32 on the CPU, initialised from `seed`."""
    with torch.device("meta"):
        model = FinetuneModel(arch, heads, backends)
    _allocate(model)
    initialise(model, seed)
    return model


def _allocate(model: nn.Module) -> None:
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty_like(parameter, device="cpu")))
