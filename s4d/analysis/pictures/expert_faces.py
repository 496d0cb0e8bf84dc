"""Which expert a patch is sent to first, on single samples and over many.

The first choice is the expert with the largest gate. Under a capacity factor it may have been full; the map shows the
choice. Letters: B sequences of one length, L MoAE layers, S temporal slices, R rows, C columns, k choices, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from s4d.models.moae import RoutingTerms


def first_choices(routing: Sequence[RoutingTerms], grid: tuple[int, int, int, int]) -> Tensor:
    """Expert of each patch, int64 (B, L, S, R, C), from each layer's terms of `grid` = (B, S, R, C) tokens."""
    maps = []
    for terms in routing:
        best = terms.gates.argmax(1, keepdim=True)
        maps.append(terms.expert_ids.gather(1, best).view(grid))
    return torch.stack(maps, 1) if maps else torch.zeros(grid, dtype=torch.int64)[:, None][:, :0]


def place_counts(choices: Tensor, experts: int) -> Tensor:
    """How often each expert was the first choice at each place, (L, R, C, E), from `choices` (B, L, S, R, C)."""
    return F.one_hot(choices, experts).sum((0, 2))
