"""One rank of runs whose router leaves experts without a token: some on one half of the ranks, some on all."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import engine_ranks
import torch
from engine_fakes import FEATURES, GLOBAL_BATCH, TinyBatch, TinyBatches, TinyTask
from torch import Tensor, nn

from engine.failure import leave
from engine.runtime import start_runtime
from s4d.models.moae import MoaeAdapters
from s4d.models.sizes import MoaeArchitecture

ARCHITECTURE = MoaeArchitecture(layers=(0,), num_experts=6, top_k=2, hidden_dim=4, router_noise="off")
# Feature 0 has this size and the sign of the half of the batch: experts 0 and 1 serve one half, 2 and 3 the other.
SIDE = 4.0


class IdleModule(nn.Module):
    """One layer of adapter experts around which nothing else is; experts 4 and 5 never get a token."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.moae = MoaeAdapters(FEATURES, ARCHITECTURE)
        self.head = nn.Linear(FEATURES, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 5)
            self.moae.router_weight[:, 0] = torch.tensor([9.0, 9.0, -9.0, -9.0, 0.0, 0.0])
            self.moae.router_bias[4:] = -99.0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = x.to(self.head.weight.dtype)
        hidden, terms = self.moae(x, x, None, (0, x.shape[0]))
        return {"prediction": self.head(hidden), "counts": terms.counts}


class IdleTask(TinyTask):
    """Squared error of that layer."""

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values, **named)
        self.module = IdleModule()


class HalvedBatches(TinyBatches):
    """The first half of the global batch lies on the other side of feature 0 than the second one."""

    def steps(self, start: int) -> Iterator[list[TinyBatch]]:
        for (batch,) in super().steps(start):
            size = batch.x.shape[0]
            place = self.rank * size + torch.arange(size)
            batch.x[:, 0] = torch.where(place < GLOBAL_BATCH // 2, SIDE, -SIDE)
            yield [batch]


if __name__ == "__main__":
    engine_ranks.TinyTask, engine_ranks.TinyBatches = IdleTask, HalvedBatches  # type: ignore[misc]
    joined = start_runtime()
    for job in json.loads(sys.argv[1]):
        engine_ranks.run(job, joined)
    joined.close()
    leave(0)
