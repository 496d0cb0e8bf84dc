"""Tile sizes of the Triton attention: one literal row per architecture family, type, head_dim and length class.

Contained tiles of 64 rows hold 6 sequences of 10 tokens or one of 40: 102 rows of matrix work per row of 40-token
sequences, where 128 rows for three of them take 136. Longer sequences take 128 rows. The rows not taken spill
registers: the contained backward of 128 rows on sm_80, and for head_dim above 64 on sm_90, where 64 rows and streaming
serve. So does one program per (sequence, head) for head_dim above 64: ``sequences`` is None there, and the backward of
longer sequences always takes two passes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from kernels.launch import family


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How one kernel is compiled: rows of a block of its inner and its outer loop (0: no loop), warps, stages.

    ``reload``: the rows that stay the same in the inner loop are loaded in every step, where keeping them would spill.
    """

    block: int = 0
    outer: int = 0
    warps: int
    stages: int = 1
    reload: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """Rows of a tile and the schedule of each kernel; ``sequences`` is None where no schedule of it fits."""

    rows: int
    forward: Schedule
    contained: Schedule
    queries: Schedule
    keys: Schedule
    sequences: Schedule | None


_SMALL = Tile(
    rows=64,
    forward=Schedule(block=64, warps=4, stages=3),
    contained=Schedule(warps=4),
    queries=Schedule(block=64, warps=4, stages=2),
    keys=Schedule(block=64, warps=4, stages=2),
    sequences=Schedule(block=64, outer=64, warps=4, stages=2),
)
_LARGE = Tile(
    rows=128,
    forward=Schedule(block=64, warps=8, stages=3),
    contained=Schedule(warps=8),
    queries=Schedule(block=64, warps=8, stages=2),
    keys=Schedule(block=64, warps=8, stages=2),
    sequences=Schedule(block=64, outer=128, warps=8, stages=2),
)
_SMALL_AMPERE = Tile(
    rows=64,
    forward=Schedule(block=64, warps=4, stages=3),
    contained=Schedule(warps=4),
    queries=Schedule(block=64, warps=4, stages=2),
    keys=Schedule(block=64, warps=4, stages=2),
    sequences=Schedule(block=32, outer=64, warps=4, stages=2),
)
_WIDE = Tile(
    rows=64,
    forward=Schedule(block=64, warps=4, stages=2),
    contained=Schedule(warps=4),
    queries=Schedule(block=64, warps=4, stages=2),
    keys=Schedule(block=32, warps=4, stages=1),
    sequences=None,
)
_WIDE_BLACKWELL = Tile(
    rows=64,
    forward=Schedule(block=64, warps=4, stages=2),
    contained=Schedule(warps=4),
    queries=Schedule(block=64, warps=4, stages=1),
    keys=Schedule(block=64, warps=4, stages=2),
    sequences=None,
)
_WIDE_AMPERE = Tile(
    rows=64,
    forward=Schedule(block=32, warps=4, stages=2, reload=True),
    contained=Schedule(warps=4),
    queries=Schedule(block=32, warps=4, stages=2),
    keys=Schedule(block=16, warps=4, stages=2),
    sequences=None,
)
_SINGLE = Tile(
    rows=32,
    forward=Schedule(block=32, warps=4, reload=True),
    contained=Schedule(warps=4),
    queries=Schedule(block=16, warps=4, reload=True),
    keys=Schedule(block=16, warps=4, reload=True),
    sequences=Schedule(block=16, outer=16, warps=4, reload=True),
)
_WIDE_SINGLE = Tile(
    rows=16,
    forward=Schedule(block=16, warps=4, reload=True),
    contained=Schedule(warps=4),
    queries=Schedule(block=16, warps=8, reload=True),
    keys=Schedule(block=16, warps=4, reload=True),
    sequences=None,
)

HEAD_DIMS = (32, 64, 80, 128)
# (architecture family, bytes of a value, head_dim) -> tiles for rising lengths; the last also streams.
TABLE: dict[tuple[int, int, int], tuple[Tile, ...]] = {
    (80, 2, 32): (_SMALL_AMPERE,),
    (80, 2, 64): (_SMALL_AMPERE,),
    (80, 2, 80): (_WIDE_AMPERE,),
    (80, 2, 128): (_WIDE_AMPERE,),
    (90, 2, 32): (_SMALL, _LARGE),
    (90, 2, 64): (_SMALL, _LARGE),
    (90, 2, 80): (_WIDE,),
    (90, 2, 128): (_WIDE,),
    (100, 2, 32): (_SMALL, _LARGE),
    (100, 2, 64): (_SMALL, _LARGE),
    (100, 2, 80): (_WIDE_BLACKWELL,),
    (100, 2, 128): (_WIDE_BLACKWELL,),
    **{(family, 4, head_dim): (_SINGLE,) for family in (80, 90, 100) for head_dim in (32, 64)},
    **{(family, 4, head_dim): (_WIDE_SINGLE,) for family in (80, 90, 100) for head_dim in (80, 128)},
}
# Multiprocessors of the device a family is named after, where there is no device to ask.
_MULTIPROCESSORS = 132
_forced_rows: list[int] = []
_forced_two_pass: list[bool] = []


def select(architecture: int, dtype: torch.dtype, head_dim: int, longest: int) -> Tile:
    """The first tile that contains sequences of ``longest`` tokens, else the largest."""
    tiles = TABLE[family(architecture), dtype.itemsize, head_dim]
    if _forced_rows:
        return next((tile for tile in tiles if tile.rows == _forced_rows[-1]), tiles[-1])
    return next((tile for tile in tiles if longest <= tile.rows), tiles[-1])


def prefers_two_pass(device: torch.device, programs: int) -> bool:
    """Whether ``programs``, longer sequences times heads, leave too much of the device idle as one program each.

    One program fills a multiprocessor, and takes five products where the two passes take seven. So two passes win where
    the rounds of programs are less than 5/7 full.
    """
    if _forced_two_pass:
        return _forced_two_pass[-1]
    slots = _multiprocessors(device)
    return 7 * programs < 5 * slots * -(-programs // slots)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return _MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@contextmanager
def forced(*, rows: int | None = None, two_pass: bool | None = None) -> Iterator[None]:
    """Within the block, take tiles of ``rows`` rows where the table has them, and this form of the backward.

    For benchmarks and tests; the forward and the backward of one call belong in the same block.
    """
    depth = len(_forced_rows), len(_forced_two_pass)
    _forced_rows.extend([] if rows is None else [rows])
    _forced_two_pass.extend([] if two_pass is None else [two_pass])
    try:
        yield
    finally:
        del _forced_rows[depth[0] :], _forced_two_pass[depth[1] :]
