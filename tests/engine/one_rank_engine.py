"""As much of DeepSpeed without ZeRO as a step calls, in one process and without a process group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class OneRankEngine:
    """Counts reductions; AdamW steps at every `accumulation`-th call of `step`."""

    def __init__(self, module: nn.Module, accumulation: int = 1, lr: float = 1e-2) -> None:
        self.module = module
        self.optimizer = self.basic_optimizer = torch.optim.AdamW(module.parameters(), lr=lr)
        self.reductions = 0
        self.enable_backward_allreduce = True
        self._accumulation = accumulation
        self._micro_steps = 0
        self._is_alone = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def gradient_accumulation_steps(self) -> int:
        return self._accumulation

    def backward(self, loss: Tensor) -> None:
        (loss / self._accumulation).backward()
        if not self._is_alone:
            self.allreduce_gradients()

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        self._is_alone = True
        yield
        self._is_alone = False

    def allreduce_gradients(self, bucket_size: int = 0) -> None:
        if self._is_boundary:
            self.reductions += 1
            for value in self.module.parameters():
                value.grad = torch.zeros_like(value) if value.grad is None else value.grad

    def step(self) -> None:
        assert not self._is_alone
        if self._is_boundary:
            self.optimizer.step()
            for value in self.module.parameters():
                value.grad = None
        self._micro_steps += 1

    @property
    def _is_boundary(self) -> bool:
        return (self._micro_steps + 1) % self._accumulation == 0


def runtime(world_size: int = 1) -> Any:
    """The one rank, as `engine.compute` sees it."""
    return SimpleNamespace(rank=0, world_size=world_size, device=torch.device("cpu"))


def weights(engine: OneRankEngine) -> list[Tensor]:
    """Copies of all weights and moments."""
    state = engine.optimizer.state
    moments = [state[value][key] for value in state for key in ("exp_avg", "exp_avg_sq")]
    return [value.detach().clone() for value in [*engine.module.parameters(), *moments]]
