"""What the engine assumes about tasks and batches; `s4d` satisfies these without importing them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn


class StepResult(Protocol):
    """Loss share of one micro batch, with named detached parts and metrics (see `Task.forward`)."""

    @property
    def loss(self) -> Tensor: ...
    @property
    def parts(self) -> dict[str, Tensor]: ...
    @property
    def metrics(self) -> dict[str, Tensor]: ...


class Batch(Protocol):
    """One micro batch that can be moved to a device."""

    def to(self, device: torch.device) -> Batch: ...


class Batches(Protocol):
    """The step sequence of one rank: micro batches as a pure function of the step number."""

    @property
    def total_steps(self) -> int: ...
    @property
    def samples_per_step(self) -> dict[str, int]: ...
    def steps(self, start: int) -> Iterator[list[Batch]]:
        """Micro batches of step `start`, `start + 1`, ... up to `total_steps`."""
        ...
    def counters(self) -> dict[str, int]:
        """Running counts worth logging, such as skipped files."""
        ...
    def close(self) -> None: ...


class Task(Protocol):
    """The model and what to do with a batch. `forward` calls `module`, which may be wrapped by DeepSpeed."""

    module: nn.Module

    def begin_step(self, module: nn.Module, batches: list[Batch]) -> object:
        """Statistics of the whole step that the loss needs before the first backward."""
        ...
    def forward(self, module: nn.Module, batch: Batch, statistics: object) -> StepResult:
        """Loss share of one micro batch: shares sum to the step's loss over ranks and accumulation."""
        ...
    def evaluate(self, module: nn.Module, split: str) -> dict[str, float]:
        """Scores of one split, equal on all ranks; every rank runs the same number of forwards."""
        ...
    def layer_of(self, parameter_name: str) -> int | None:
        """Depth of a parameter for layer-wise learning-rate decay; None: no decay (multiplier 1)."""
        ...
    def lr_multiplier(self, parameter_name: str) -> float:
        """Further factor on the learning rate of a parameter."""
        ...
    @property
    def num_layers(self) -> int:
        """Largest value of `layer_of`."""
        ...
