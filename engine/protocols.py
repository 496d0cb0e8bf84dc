"""What the engine assumes about tasks, batches and configuration; `s4d` satisfies these without importing them.

`engine/train.py` builds them with `s4d.tasks.build_task(config, rank=, world_size=, device=)` and
`s4d.data.loader.build_batches(config, rank, world_size, device)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class StepResult(Protocol):
    """Loss share of one micro batch, with named detached parts and metrics (see `Task.forward`).

    `parts` and `metrics` are shares too: the engine adds them up over ranks and accumulation on logged steps. Their
    names are equal on all ranks; `parts` go to metrics.jsonl under their own names (`loss/image`), as do `metrics`.
    """

    @property
    def loss(self) -> Tensor: ...
    @property
    def parts(self) -> dict[str, Tensor]: ...
    @property
    def metrics(self) -> dict[str, Tensor]: ...


class Batch(Protocol):
    """One micro batch that can be moved to a device."""

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """Names of its samples, for messages; nothing is computed from fields of this name, its own or further in."""
        ...

    def to(self, device: torch.device) -> Batch: ...

    def row_owners(self, rows: int) -> Tensor | None:
        """Index of the sample that each row of a tensor with `rows` rows belongs to; None if rows are no such thing."""
        ...

    def store(self) -> tuple[dict[str, Tensor], Any]:
        """Named tensors and the JSON-ready rest, from which the batch can be made again."""
        ...


class Batches(Protocol):
    """The step sequence of one rank: micro batches as a pure function of the step number."""

    @property
    def total_steps(self) -> int: ...
    @property
    def samples_per_step(self) -> dict[str, int]: ...
    def steps(self, start: int) -> Iterator[list[Any]]:
        """Micro batches (`Batch`) of step `start`, `start + 1`, ... up to `total_steps`."""
        ...

    def fingerprints(self) -> dict[str, str | None]:
        """Hashes of what is read, under names for a reader: a continued run must read the same."""
        ...

    def counters(self) -> dict[str, int]:
        """Running counts worth logging, such as skipped files."""
        ...

    def close(self) -> None: ...


class Task(Protocol):
    """The model and what to do with a batch. `forward` calls `module`, which may be wrapped by DeepSpeed."""

    module: nn.Module

    def begin_step(self, module: nn.Module, batches: list[Any]) -> object:
        """Statistics of the whole step that the loss needs before the first backward."""
        ...

    def forward(self, module: nn.Module, batch: Any, statistics: Any) -> StepResult:
        """Loss share of one micro batch: shares sum to the step's loss over ranks and accumulation.

        A function of the weights, of the tensors of batch and statistics, and of their form (`engine.inputs`).
        """
        ...

    @property
    def forward_has_collectives(self) -> bool:
        """Whether `forward` talks to other ranks."""
        ...

    def evaluate(self, module: nn.Module, split: str) -> dict[str, float]:
        """Scores of one split, equal on all ranks; every rank runs the same number of forwards.

        Called with "val" every `engine.eval_every` steps; the task chooses the held-out data behind that name. The task
        switches the module to evaluation mode and back.
        """
        ...

    def finish(self, module: nn.Module, run_dir: Path, weights: str) -> dict[str, float]:
        """Final evaluation and artifacts of a finished run, on all ranks; only rank 0 writes files.

        Called once with weights="last" and, when a moving average is kept, once more with weights="ema" while the
        module holds the averaged weights: files of the second call must not replace those of the first.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready content of a checkpoint's config.json: architecture, stage, class names per head.

        `metrics`, if it is there, is the last evaluation; it is kept where the checkpoint has the weights of that one.
        """
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


class OptimSettings(Protocol):
    """The `optim` section of a run's configuration."""

    @property
    def lr(self) -> float: ...
    @property
    def reference_batch(self) -> int | None: ...
    @property
    def min_lr(self) -> float: ...
    @property
    def warmup_lr(self) -> float: ...
    @property
    def warmup_share(self) -> float: ...
    @property
    def betas(self) -> tuple[float, float]: ...
    @property
    def eps(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def decay_rule(self) -> str: ...
    @property
    def layer_decay(self) -> float: ...
    @property
    def max_grad_norm(self) -> float | None: ...
    @property
    def ema(self) -> float | None: ...


class EngineSettings(Protocol):
    """The `engine` section of a run's configuration."""

    @property
    def zero_stage(self) -> int: ...
    @property
    def offload(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def step_graph(self) -> str: ...
    @property
    def recompute(self) -> float: ...
    @property
    def log_every(self) -> int: ...
    @property
    def save_every(self) -> int | None: ...
    @property
    def keep_last(self) -> int: ...
    @property
    def keep_every(self) -> int | None: ...
    @property
    def keep_best(self) -> str | None: ...
    @property
    def save_failures(self) -> int: ...
    @property
    def skip_nonfinite(self) -> int: ...
    @property
    def eval_every(self) -> int | None: ...
    @property
    def phase_seconds(self) -> dict[str, float]: ...


class BatchSettings(Protocol):
    """The `batch` section of a run's configuration."""

    @property
    def per_step(self) -> dict[str, int]: ...
    @property
    def accumulation(self) -> int: ...


class RunConfig(Protocol):
    """The sections of a run's configuration that the engine reads."""

    @property
    def run_dir(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def batch(self) -> BatchSettings: ...
    @property
    def optim(self) -> OptimSettings: ...
    @property
    def engine(self) -> EngineSettings: ...
    def settings(self) -> dict[str, dict[str, Any]]:
        """Every field of the run as `engine.drift` compares them."""
        ...
