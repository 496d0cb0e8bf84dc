"""Tiles of the patch-embedding kernels: finite tables per architecture family and dtype, with what they compile to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from kernels.launch import family

# Programs that fill a device of each family about twice.
_PROGRAMS = {80: 216, 90: 264, 100: 296}
# A split shorter than this many blocks of tokens costs more in partial sums than it gains.
_LEAST_BLOCKS = 4
_MOST_SPLITS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """Rows (tokens), columns and values of a tile, and how it is compiled."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int

    def blocks(self) -> dict[str, int]:
        """The block sizes under the kernels' names."""
        return {"BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "BLOCK_K": self.block_k}


def _tile(m: int, n: int, k: int, warps: int, stages: int) -> Tile:
    return Tile(block_m=m, block_n=n, block_k=k, num_warps=warps, num_stages=stages)


# What happens to pixels in the load: normalised alone; also blackened or mixed; noise drawn too, which needs registers.
Load = Literal["plain", "changed", "noise"]

# (family, half precision, load) -> tile for a small, for a large number of tokens.
FORWARD: dict[tuple[int, bool, Load], tuple[Tile, Tile]] = {
    (80, True, "plain"): (_tile(64, 64, 64, 4, 3), _tile(128, 128, 32, 8, 3)),
    (80, True, "changed"): (_tile(64, 64, 32, 4, 2), _tile(128, 128, 32, 8, 2)),
    (80, True, "noise"): (_tile(64, 64, 32, 8, 2), _tile(64, 64, 32, 8, 2)),
    (80, False, "plain"): (_tile(32, 32, 32, 4, 2), _tile(64, 32, 32, 4, 2)),
    (80, False, "changed"): (_tile(32, 32, 32, 4, 2), _tile(32, 32, 32, 4, 2)),
    (80, False, "noise"): (_tile(32, 32, 32, 8, 2), _tile(32, 32, 32, 8, 2)),
    (90, True, "plain"): (_tile(64, 128, 64, 4, 3), _tile(128, 128, 64, 8, 3)),
    (90, True, "changed"): (_tile(64, 128, 32, 4, 2), _tile(128, 128, 32, 8, 2)),
    (90, True, "noise"): (_tile(64, 128, 32, 8, 2), _tile(64, 128, 32, 8, 2)),
    (90, False, "plain"): (_tile(32, 32, 32, 4, 2), _tile(64, 32, 32, 4, 2)),
    (90, False, "changed"): (_tile(32, 32, 32, 4, 2), _tile(32, 32, 32, 4, 2)),
    (90, False, "noise"): (_tile(32, 32, 32, 4, 2), _tile(32, 32, 32, 4, 2)),
    (100, True, "plain"): (_tile(64, 128, 64, 4, 3), _tile(128, 128, 64, 8, 3)),
    (100, True, "changed"): (_tile(64, 128, 32, 4, 2), _tile(128, 128, 32, 8, 2)),
    (100, True, "noise"): (_tile(64, 128, 32, 8, 2), _tile(64, 128, 32, 8, 2)),
    (100, False, "plain"): (_tile(32, 32, 32, 4, 2), _tile(32, 32, 32, 4, 2)),
    (100, False, "changed"): (_tile(32, 32, 32, 4, 2), _tile(32, 32, 32, 4, 2)),
    (100, False, "noise"): (_tile(32, 32, 32, 4, 2), _tile(32, 32, 32, 4, 2)),
}
# Below this many tokens the large tile leaves processors idle.
_SMALL_TOKENS = 4096

GRADIENT: dict[tuple[int, bool, Load], Tile] = {
    (80, True, "plain"): _tile(32, 64, 128, 8, 3),
    (80, True, "changed"): _tile(32, 64, 128, 8, 2),
    (80, True, "noise"): _tile(32, 64, 64, 8, 2),
    (80, False, "plain"): _tile(32, 32, 64, 4, 2),
    (80, False, "changed"): _tile(32, 32, 32, 4, 2),
    (80, False, "noise"): _tile(16, 32, 32, 4, 2),
    (90, True, "plain"): _tile(64, 128, 128, 8, 3),
    (90, True, "changed"): _tile(32, 128, 128, 8, 2),
    (90, True, "noise"): _tile(32, 128, 64, 8, 2),
    (90, False, "plain"): _tile(32, 32, 64, 4, 2),
    (90, False, "changed"): _tile(32, 32, 32, 4, 2),
    (90, False, "noise"): _tile(16, 32, 32, 4, 2),
    (100, True, "plain"): _tile(64, 128, 128, 8, 3),
    (100, True, "changed"): _tile(32, 128, 128, 8, 2),
    (100, True, "noise"): _tile(32, 128, 64, 8, 2),
    (100, False, "plain"): _tile(32, 32, 32, 4, 2),
    (100, False, "changed"): _tile(32, 32, 32, 4, 2),
    (100, False, "noise"): _tile(16, 32, 32, 4, 2),
}


def select_forward(architecture: int, dtype: torch.dtype, tokens: int, load: Load) -> Tile:
    """Tile of the embedding for a number of tokens."""
    small, large = FORWARD[family(architecture), dtype != torch.float32, load]
    return small if tokens < _SMALL_TOKENS else large


def select_gradient(architecture: int, dtype: torch.dtype, load: Load) -> Tile:
    """Tile of the weight gradient."""
    return GRADIENT[family(architecture), dtype != torch.float32, load]


def split_tokens(architecture: int, tokens: int, tiles: int, block_m: int) -> tuple[int, int]:
    """How many splits the tokens are summed in, and the tokens of each, a multiple of ``block_m``."""
    blocks = -(-tokens // block_m)
    splits = max(1, min(_PROGRAMS[family(architecture)] // tiles, blocks // _LEAST_BLOCKS, _MOST_SPLITS))
    blocks_per_split = max(1, -(-blocks // splits))
    return max(1, -(-blocks // blocks_per_split)), blocks_per_split * block_m
