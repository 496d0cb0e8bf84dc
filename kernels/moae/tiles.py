"""Tiles of the router kernels: finite tables by architecture family, use of tensor cores and padded columns.

Rows without tensor cores serve float32 tokens, and so many experts that the accumulators of a tile of 64 tokens, the
fewest that tensor cores take, do not fit the registers. Their products have fewer than 64 rows: on architecture 100 the
compiler rounds a taller float32 product to TF32, whatever its stated precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.launch import family

# Most padded columns (experts, twice with noise) that run on tensor cores.
MOST_TENSOR_COLUMNS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """Tokens and columns of D per step, and how the kernel is compiled."""

    tokens: int
    columns: int
    warps: int
    stages: int
    tensor_cores: bool


def _half(tokens: int, columns: int, warps: int, stages: int) -> Tile:
    return Tile(tokens=tokens, columns=columns, warps=warps, stages=stages, tensor_cores=True)


def _exact(tokens: int, columns: int, warps: int, stages: int) -> Tile:
    return Tile(tokens=tokens, columns=columns, warps=warps, stages=stages, tensor_cores=False)


# (family, tensor cores) -> rows (most padded columns, tile), the first that is wide enough serves.
ROUTER = {
    (80, True): ((32, _half(64, 64, 4, 3)),),
    (90, True): ((32, _half(64, 64, 4, 4)),),
    (100, True): ((32, _half(64, 64, 4, 4)),),
    (80, False): ((32, _exact(16, 64, 4, 2)), (128, _exact(16, 32, 4, 2)), (512, _exact(16, 16, 8, 2))),
    (90, False): ((32, _exact(16, 64, 4, 2)), (128, _exact(16, 32, 4, 2)), (512, _exact(16, 16, 8, 2))),
    (100, False): ((32, _exact(16, 64, 4, 2)), (128, _exact(16, 32, 4, 2)), (512, _exact(16, 16, 8, 2))),
}
ROUTER_BACKWARD = {
    (80, True): ((16, _half(64, 64, 4, 2)), (32, _half(64, 64, 8, 2))),
    (90, True): ((32, _half(64, 64, 4, 2)),),
    (100, True): ((32, _half(64, 64, 4, 2)),),
    (80, False): ((32, _exact(16, 32, 4, 1)), (128, _exact(16, 32, 4, 1)), (512, _exact(16, 16, 8, 1))),
    (90, False): ((32, _exact(16, 32, 4, 1)), (128, _exact(16, 32, 4, 1)), (512, _exact(16, 16, 8, 1))),
    (100, False): ((32, _exact(16, 32, 8, 1)), (128, _exact(16, 32, 4, 1)), (512, _exact(16, 16, 8, 1))),
}
# Most experts, padded, that a row serves.
MOST_EXPERTS = 256


def _select(
    table: dict[tuple[int, bool], tuple[tuple[int, Tile], ...]], architecture: int, dtype: torch.dtype, columns: int
) -> Tile:
    tensor_cores = dtype.itemsize == 2 and columns <= MOST_TENSOR_COLUMNS
    for most, tile in table[family(architecture), tensor_cores]:
        if columns <= most:
            return tile
    raise ValueError(f"experts: expected at most {MOST_EXPERTS}")


def router_tile(architecture: int, dtype: torch.dtype, columns: int) -> Tile:
    """Tile of the router forward for tokens of ``dtype`` and this many padded columns."""
    return _select(ROUTER, architecture, dtype, columns)


def router_backward_tile(architecture: int, dtype: torch.dtype, columns: int) -> Tile:
    """Tile of the router backward for tokens of ``dtype`` and this many padded columns."""
    return _select(ROUTER_BACKWARD, architecture, dtype, columns)
