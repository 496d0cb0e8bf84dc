"""Tiles of the expert kernels: finite tables by architecture, dtype and number of slots, picked without tuning runs.

float32 multiplies without tensor cores, in small tiles. Rows of half precision: few slots take small tiles, so that
every processor has one, many take large ones, so that the weights are read seldom.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from kernels.launch import family
from kernels.moae.records import Experts


@dataclass(frozen=True, kw_only=True, slots=True)
class RowTile:
    """Tile of ``rows`` slots: hidden columns per accumulator, depth per step, output columns per pass.

    ``swaps`` puts the slots on the columns of the products. Hidden rows of up to ``resident_chunks`` accumulators stay
    on chip between the two products; wider ones pass through memory, ``streamed_chunks`` accumulators at a time.
    """

    rows: int
    hidden: int
    depth: int
    columns: int
    num_warps: int
    num_stages: int
    swaps: bool = False
    resident_chunks: int = 3
    streamed_chunks: int = 2

    def is_resident(self, hidden: int) -> bool:
        """Whether hidden rows of this width stay on chip between the two products."""
        return hidden <= self.resident_chunks * self.hidden


@dataclass(frozen=True, kw_only=True, slots=True)
class OuterTile:
    """Tile of a weight gradient, ``hidden`` by ``columns``, in steps of ``slots``."""

    slots: int
    hidden: int
    columns: int
    num_warps: int
    num_stages: int


def _rows(rows: int, depth: int, columns: int, num_warps: int, num_stages: int, *, swaps: bool = False) -> RowTile:
    return RowTile(
        rows=rows,
        hidden=64,
        depth=depth,
        columns=columns,
        num_warps=num_warps,
        num_stages=num_stages,
        swaps=swaps,
    )


def _exact_rows(streamed_chunks: int = 2) -> RowTile:
    return RowTile(
        rows=32,
        hidden=32,
        depth=32,
        columns=32,
        num_warps=4,
        num_stages=2,
        resident_chunks=6,
        streamed_chunks=streamed_chunks,
    )


def _outer(slots: int, hidden: int, columns: int, num_warps: int, num_stages: int) -> OuterTile:
    return OuterTile(slots=slots, hidden=hidden, columns=columns, num_warps=num_warps, num_stages=num_stages)


Direction = Literal["forward", "backward"]

# More experts to find a tile's among, or widths that blocks do not divide, cost registers that the large tiles lack.
_FEW_EXPERTS = 8
_EVEN_WIDTH = 128
_EVEN_HIDDEN = 64

# Most slots that the small and the middle tiles serve; the large ones serve any number.
FEW_SLOTS = 4096
SOME_SLOTS = 16384

# (direction, family) -> tiles for few, some and many slots, in half precision.
ROWS: dict[tuple[Direction, int], tuple[RowTile, RowTile, RowTile]] = {
    ("forward", 80): (_rows(32, 64, 64, 4, 3), _rows(64, 32, 64, 4, 3), _rows(128, 32, 64, 8, 3)),
    ("forward", 90): (_rows(32, 64, 64, 4, 3, swaps=True), _rows(64, 64, 128, 4, 2), _rows(128, 64, 128, 8, 3)),
    ("forward", 100): (_rows(32, 64, 64, 4, 3, swaps=True), _rows(64, 64, 128, 4, 3), _rows(128, 64, 128, 8, 2)),
    ("backward", 80): (_rows(32, 64, 64, 4, 3), _rows(64, 32, 64, 4, 3), _rows(128, 32, 64, 8, 3)),
    ("backward", 90): (_rows(32, 64, 64, 4, 3, swaps=True), _rows(64, 64, 128, 4, 2), _rows(128, 64, 128, 8, 3)),
    ("backward", 100): (_rows(32, 64, 64, 4, 2, swaps=True), _rows(64, 64, 64, 4, 2), _rows(128, 64, 128, 8, 2)),
}
# (direction, family) -> the tile for many experts or uneven widths.
UNEVEN_ROWS: dict[tuple[Direction, int], RowTile] = {
    ("forward", 80): _rows(64, 32, 64, 4, 3),
    ("forward", 90): _rows(64, 64, 64, 4, 3),
    ("forward", 100): _rows(64, 64, 64, 4, 3),
    ("backward", 80): _rows(64, 32, 64, 4, 3),
    ("backward", 90): _rows(64, 64, 64, 4, 2),
    ("backward", 100): _rows(64, 64, 64, 4, 2),
}
# Family -> the tile for more than few slots with hidden rows that pass through memory.
STREAMED_ROWS: dict[int, RowTile] = {
    80: replace(_rows(64, 32, 64, 4, 3), streamed_chunks=1),
    90: replace(_rows(128, 64, 64, 8, 2), streamed_chunks=1),
    100: replace(_rows(128, 64, 64, 8, 2), streamed_chunks=1),
}
EXACT_ROWS: dict[tuple[Direction, int], RowTile] = {
    ("forward", 80): _exact_rows(streamed_chunks=1),
    ("forward", 90): _exact_rows(streamed_chunks=1),
    ("forward", 100): _exact_rows(streamed_chunks=1),
    ("backward", 80): _exact_rows(),
    ("backward", 90): _exact_rows(),
    ("backward", 100): _exact_rows(),
}
OUTER = {80: _outer(64, 64, 128, 4, 5), 90: _outer(64, 64, 128, 4, 4), 100: _outer(64, 64, 128, 4, 5)}
EXACT_OUTER = {80: _outer(32, 32, 64, 4, 2), 90: _outer(32, 32, 64, 4, 2), 100: _outer(32, 32, 64, 4, 2)}


def select_rows(direction: Direction, architecture: int, experts: Experts, slots: int) -> RowTile:
    """Tile of a kernel over tiles of slots, for this many slots."""
    key = (direction, family(architecture))
    if experts.fc1_weight.dtype.itemsize > 2:
        return EXACT_ROWS[key]
    num_experts, hidden, width = experts.fc1_weight.shape
    if num_experts > _FEW_EXPERTS or width % _EVEN_WIDTH or hidden % _EVEN_HIDDEN:
        return UNEVEN_ROWS[key]
    few, some, many = ROWS[key]
    if slots <= FEW_SLOTS:
        return few
    if not many.is_resident(hidden):
        return STREAMED_ROWS[family(architecture)]
    return some if slots <= SOME_SLOTS else many


def select_outer(architecture: int, dtype: torch.dtype) -> OuterTile:
    """Tile of the weight gradients."""
    return (EXACT_OUTER if dtype.itemsize > 2 else OUTER)[family(architecture)]
