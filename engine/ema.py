"""Exponential moving average of the fp32 weights, kept on the shards each rank holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from engine.master_state import MasterState


class MovingAverage:
    """Average of the weights with decay min(`decay`, (1 + step) / (10 + step)); `decay` None keeps and does nothing."""

    def __init__(self, state: MasterState, decay: float | None) -> None:
        self._state = state
        self._decay = decay
        self.shards: list[Tensor] = []
        self.restart()

    @property
    def active(self) -> bool:
        """True if an average is kept."""
        return self._decay is not None

    def restart(self) -> None:
        """Set the average to the current weights."""
        if self.active:
            self.shards = [shard.detach().clone() for shard in self._state.shards]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step `step` (the first is 1)."""
        if self._decay is not None:
            decay = min(self._decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.shards, [shard.detach() for shard in self._state.shards], 1.0 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the model computes with the averaged weights; collective."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for mine, theirs in zip(self.shards, self._state.shards, strict=True):
            kept = theirs.detach().clone()
            theirs.copy_(mine)
            mine.copy_(kept)
        self._state.push()
