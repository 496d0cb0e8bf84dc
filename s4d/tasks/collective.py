"""Sums and gathers over ranks, which do nothing in a run of one process."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")


def is_distributed() -> bool:
    """Whether there are other ranks to talk to."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Elementwise sum of every rank's tensor, equal on all ranks; carries no gradient."""
    total = values.detach().clone()
    if is_distributed():
        dist.all_reduce(total)
    return total


def gather_over_ranks(item: Item) -> list[Item]:
    """Every rank's object, in rank order, on all ranks; sizes may differ."""
    if not is_distributed():
        return [item]
    items: list[Item | None] = [None] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items  # type: ignore[return-value]
