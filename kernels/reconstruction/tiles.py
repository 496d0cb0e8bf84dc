"""Tiles of the reconstruction kernels: finite tables per architecture family and dtype, with what they compile to."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.launch import family

# Programs that fill a device of each family about twice.
_PROGRAMS = {80: 216, 90: 264, 100: 296}
# A split shorter than this many blocks of tokens costs more in partial sums than it gains.
_LEAST_BLOCKS = 4
_MOST_SPLITS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidualTile:
    """Tokens, tubelet values and width step of a tile; a ``resident`` one keeps its tokens' hidden rows on chip."""

    block_m: int
    block_v: int
    block_d: int
    num_warps: int
    num_stages: int
    resident: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductTile:
    """Rows, columns and reduction step of a product."""

    block_rows: int
    block_columns: int
    block_inner: int
    num_warps: int
    num_stages: int


def _residual(m: int, v: int, d: int, warps: int, stages: int, resident: bool = False) -> ResidualTile:
    return ResidualTile(block_m=m, block_v=v, block_d=d, num_warps=warps, num_stages=stages, resident=resident)


def _product(rows: int, columns: int, inner: int, warps: int, stages: int) -> ProductTile:
    return ProductTile(block_rows=rows, block_columns=columns, block_inner=inner, num_warps=warps, num_stages=stages)


# (family, half precision) -> (largest width, tile) in order; the last row of each serves every width.
RESIDUAL: dict[tuple[int, bool], tuple[tuple[int | None, ResidualTile], ...]] = {
    (80, True): ((None, _residual(64, 64, 64, 8, 3)),),
    (80, False): ((None, _residual(32, 32, 32, 4, 2)),),
    (90, True): (
        (192, _residual(128, 64, 64, 8, 2, resident=True)),
        (384, _residual(128, 64, 128, 8, 2, resident=True)),
        (None, _residual(128, 64, 64, 8, 3)),
    ),
    (90, False): ((None, _residual(32, 32, 32, 4, 2)),),
    (100, True): ((None, _residual(64, 128, 64, 8, 3)),),
    (100, False): ((None, _residual(32, 32, 32, 4, 2)),),
}

# Gradient of the hidden rows: tokens x width, reduced over tubelet values.
HIDDEN: dict[tuple[int, bool], ProductTile] = {
    (80, True): _product(128, 64, 32, 4, 3),
    (80, False): _product(32, 64, 32, 4, 2),
    (90, True): _product(256, 128, 64, 8, 3),
    (90, False): _product(32, 64, 32, 4, 2),
    (100, True): _product(256, 128, 64, 8, 3),
    (100, False): _product(32, 64, 32, 4, 2),
}

# Gradient of the head: tubelet values x width, reduced over tokens.
HEAD: dict[tuple[int, bool], ProductTile] = {
    (80, True): _product(128, 64, 32, 4, 3),
    (80, False): _product(32, 64, 32, 4, 2),
    (90, True): _product(256, 128, 64, 8, 3),
    (90, False): _product(32, 64, 32, 4, 2),
    (100, True): _product(128, 128, 64, 8, 3),
    (100, False): _product(32, 64, 32, 4, 2),
}


def select_residual(architecture: int, dtype: torch.dtype, width: int) -> ResidualTile:
    """Tile of the forward for hidden rows of ``width``."""
    rows = RESIDUAL[family(architecture), dtype != torch.float32]
    return next(tile for largest, tile in rows if largest is None or width <= largest)


def select_hidden(architecture: int, dtype: torch.dtype) -> ProductTile:
    """Tile of the gradient of the hidden rows."""
    return HIDDEN[family(architecture), dtype != torch.float32]


def select_head(architecture: int, dtype: torch.dtype) -> ProductTile:
    """Tile of the gradient of the head."""
    return HEAD[family(architecture), dtype != torch.float32]


def split_tokens(architecture: int, tokens: int, tiles: int, block: int) -> tuple[int, int]:
    """How many splits the tokens are summed in, and the tokens of each, a multiple of ``block``."""
    blocks = -(-tokens // block)
    splits = max(1, min(_PROGRAMS[family(architecture)] // tiles, blocks // _LEAST_BLOCKS, _MOST_SPLITS))
    blocks_per_split = max(1, -(-blocks // splits))
    return max(1, -(-blocks // blocks_per_split)), blocks_per_split * block
