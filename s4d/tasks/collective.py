"""Sums over ranks, which do nothing in a run of one process."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from s4d.errors import DataError, PeerDataError


def is_distributed() -> bool:
    """Whether there are other ranks to talk to."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def refuse_together(problem: str | None) -> None:
    """Raise on all ranks if any has a problem: DataError on the first that has, PeerDataError on the others."""
    if not is_distributed():
        if problem is not None:
            raise DataError(problem)
        return
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    first = next((rank for rank, text in enumerate(problems) if text is not None), None)
    if first is not None:
        raise DataError(problems[first]) if first == dist.get_rank() else PeerDataError(problems[first])


def sum_over_ranks(values: Tensor) -> Tensor:
    """Elementwise sum of every rank's tensor, equal on all ranks; carries no gradient."""
    total = values.detach().clone()
    if is_distributed():
        dist.all_reduce(total)
    return total
