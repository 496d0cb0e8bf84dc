"""Initial weights as a pure function of the seed and the parameter's name; equal on every rank, no global generator."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from s4d.models.classifier import FinetuneModel
from s4d.models.mae import PretrainModel
from s4d.models.moae import MoaeAdapters, SharedExperts
from s4d.models.vit import PatchProjection

STD = 0.02


def initialise(model: PretrainModel | FinetuneModel, seed: int) -> None:
    """Fill every parameter in place; linear layers xavier-uniform for pre-training, else truncated normal."""
    xavier = isinstance(model, PretrainModel)
    with torch.no_grad():
        for module_name, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                full_name = f"{module_name}.{name}" if module_name else name
                _fill(module, name, parameter, generator=_generator(seed, full_name), xavier=xavier)


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _fill(module: nn.Module, name: str, parameter: Tensor, *, generator: torch.Generator, xavier: bool) -> None:
    if isinstance(module, nn.LayerNorm):
        parameter.fill_(1.0 if name == "weight" else 0.0)
    elif isinstance(module, PatchProjection):
        # The convolution's framework default, for weight and bias alike.
        bound = 1 / math.sqrt(math.prod(module.weight.shape[1:]))
        parameter.uniform_(-bound, bound, generator=generator)
    elif name == "mask_token":
        nn.init.trunc_normal_(parameter, std=STD, a=-STD, b=STD, generator=generator)
    elif name.endswith("bias") or (
        isinstance(module, MoaeAdapters | SharedExperts) and name == "fc2_weight" and module.zero_init
    ):
        parameter.zero_()
    elif xavier:
        nn.init.xavier_uniform_(parameter, generator=generator)
    else:
        nn.init.trunc_normal_(parameter, std=STD, generator=generator)
