from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from s4d.models.build import build_finetune, build_pretrain
from s4d.models.folder import write_folder
from s4d.models.sizes import Architecture, MoaeArchitecture

CLASSES = {"image": ["calm", "glad", "sore"], "video": ["sore", "glad", "calm", "cold"]}


@pytest.fixture
def saved(
    tmp_path: Path, architecture_of: Callable[..., Architecture], experts_of: Callable[..., MoaeArchitecture]
) -> Callable[..., Path]:
    """A model folder with every tensor random: a classifier, with experts if asked for, or a pre-trained model."""

    def write(stage: str = "finetune", *, experts: dict[str, object] | None = None, **described: object) -> Path:
        if stage == "finetune":
            arch = architecture_of(experts=None if experts is None else experts_of(**experts))
            model = build_finetune(arch, {head: len(names) for head, names in CLASSES.items()}, seed=4)
        else:
            arch = architecture_of()
            model = build_pretrain(arch, seed=4)
        generator = torch.Generator().manual_seed(2)
        state = {name: t + 0.1 * torch.randn(t.shape, generator=generator) for name, t in model.state_dict().items()}
        config = {
            "stage": stage,
            "architecture": arch.to_dict(),
            "classes": CLASSES if stage == "finetune" else {},
            "inputs": {head: {"modality": head} for head in CLASSES},
            **described,
        }
        folder = tmp_path / f"model-{stage}"
        write_folder(folder, state, config)
        return folder

    return write
