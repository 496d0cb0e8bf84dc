"""What is compared: a case made ready on a device, and the sides that train on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from s4d.analysis.bench_step import CLASSES, StepCase, random_batch
from s4d.data.batch import PackedBatch
from s4d.models.build import build_finetune, build_pretrain
from s4d.models.classifier import FinetuneModel
from s4d.models.mae import PretrainModel
from s4d.models.vit import Backends

if TYPE_CHECKING:
    from s4d.analysis.step_peers.equality import Equality

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Adds to freshly made weights, biases and norms: where they are 0 or 1, a comparison would not see them mixed up.
STIR = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A case on a device, and what the weights are made from: on a GPU kept there, since making them takes seconds."""

    case: StepCase
    device: torch.device
    batch: PackedBatch
    initial: Mapping[str, Tensor] | None = None

    def model(self, backends: Backends | None = None) -> PretrainModel | FinetuneModel:
        """Our model in float32 on the device, with the same weights in every call."""
        if self.initial is None:
            return _stirred(self.case, backends).to(self.device)
        arch = self.case.shape.architecture()
        with torch.device("meta"):
            pretrained = self.case.shape.task == "pretrain"
            model = PretrainModel(arch, backends) if pretrained else FinetuneModel(arch, CLASSES, backends)
        model.load_state_dict({name: value.clone() for name, value in self.initial.items()}, assign=True)
        return model.to(self.device)


def _stirred(case: StepCase, backends: Backends | None) -> PretrainModel | FinetuneModel:
    arch = case.shape.architecture()
    model: PretrainModel | FinetuneModel
    if case.shape.task == "pretrain":
        model = build_pretrain(arch, 0, backends)
    else:
        model = build_finetune(arch, CLASSES, 0, backends)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(STIR * torch.randn(parameter.shape, generator=generator))
    return model


def build_trial(case: StepCase, device: torch.device, *, keep: bool | None = None) -> Trial:
    """The case with its batch on the device; ``keep`` weights for further models, by default on a GPU."""
    batch = random_batch(case.shape, case.shape.architecture()).to(device)
    initial = None
    if device.type == "cuda" if keep is None else keep:
        initial = {name: value.to(device) for name, value in _stirred(case, None).state_dict().items()}
    return Trial(case=case, device=device, batch=batch, initial=initial)


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One way to train, ready to go.

    `step` is forward, backward and update for all samples of the batch (a side that takes one modality a step makes
    several); `loss` is the loss of the current weights, summed over the modalities. `notes` go into the result.
    `close` lets go of what the garbage collector does not.
    """

    step: Callable[[], None]
    loss: Callable[[], float]
    notes: Mapping[str, Any] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPeer:
    """A row of the table of sides: `precisions` by device type, and `build`, which may raise AbsentError.

    `equality` must pass before the side is timed. `ours` marks the sides that the others are compared with, whose
    failure is a defect. `refuse` says why a case is none for this side.
    """

    name: str
    precisions: Mapping[str, tuple[str, ...]]
    build: Callable[[Trial, str], Side]
    equality: Callable[[Trial], Equality] | None = None
    ours: bool = False
    refuse: Callable[[Trial], str | None] = lambda trial: None
