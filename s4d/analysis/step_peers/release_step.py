"""The released training step around the released pattern of computation.

One modality per step, in turn; float32 weights under autocast, or float32 throughout; a loss that the host reads and
checks before the backward; torch's AdamW as it comes, and a wait for the device at the end. Left out, in its favour:
the process group's copies and searches for unused parameters, reading the accuracy, and zeroing instead of freeing
gradients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from s4d.analysis.step_peers.ours import BETAS, LEARNING_RATE, WEIGHT_DECAY
from s4d.analysis.step_peers.release_eager import (
    ReleaseFinetune,
    ReleaseInputs,
    ReleasePretrain,
    release_inputs,
    release_model,
)
from s4d.analysis.step_peers.side import DTYPES, Side, Trial


class ReleaseLoop:
    """The released step on one batch."""

    def __init__(self, model: ReleasePretrain | ReleaseFinetune, inputs: list[ReleaseInputs], precision: str) -> None:
        self.model = model
        self.inputs = inputs
        self.precision = precision
        self.device = inputs[0].frames.device
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
        # Scales losses in float16 alone, which is what the release runs on a GPU.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

    def step(self) -> None:
        """One optimizer step for each modality of the batch."""
        for inputs in self.inputs:
            loss = self._loss(inputs)
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"release-eager: the loss of the {inputs.modality} samples is {loss.item()}")
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

    def loss(self) -> float:
        """Loss of the current weights, summed over the modalities."""
        with torch.no_grad():
            return sum(self._loss(inputs).item() for inputs in self.inputs)

    def _loss(self, inputs: ReleaseInputs) -> Tensor:
        with torch.autocast(self.device.type, dtype=DTYPES[self.precision], enabled=self.precision != "fp32"):
            loss: Tensor = self.model(inputs)
        return loss


def release_eager(trial: Trial, precision: str) -> Side:
    """The released pattern with our weights, in autocast to `precision` or in float32."""
    ours = trial.model()
    inputs = release_inputs(trial.batch, ours.arch, torch.float32)
    model = release_model(ours).train()
    del ours
    loop = ReleaseLoop(model, inputs, precision)
    return Side(step=loop.step, loss=loop.loss)
