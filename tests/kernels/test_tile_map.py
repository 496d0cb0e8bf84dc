"""The tile map against greedy packing written out, and its bound on programs."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention import tile_map
from kernels.attention.tile_map import TileMap, program_bound, tile_map_of_layout, tile_map_on_device
from kernels.varlen import Layout, cu_seqlens_from_seqlens, sequence_ids

ROWS = 16
CPU = torch.device("cpu")

Tiles = list[tuple[int, int, int]]


def greedy(lengths: list[int], rows: int) -> tuple[Tiles, Tiles]:
    """Tiles (first row, start, end) of long sequences and of packed ones, sequence by sequence."""
    long, packed = [], []
    position = start = 0
    for length in lengths:
        if position > start and (length > rows or position + length - start > rows):
            packed.append((start, start, position))
            start = position
        if length > rows:
            long += [(row, position, position + length) for row in range(position, position + length, rows)]
            start = position + length
        position += length
    if position > start:
        packed.append((start, start, position))
    return long, packed


def layout_of(lengths: list[int]) -> Layout:
    return tuple((len(list(run)), length) for length, run in groupby(lengths))


def check_map(found: TileMap, lengths: list[int], rows: int, *, exact: bool) -> None:
    long, packed = greedy(lengths, rows)
    cu_seqlens = cu_seqlens_from_seqlens(torch.tensor(lengths, dtype=torch.int32))
    total = sum(lengths)
    tiles = [tuple(tile[:3]) for tile in found.tiles.tolist() if tile[2] > tile[1]]
    assert sorted(tiles[: len(long)]) == long
    assert sorted(tiles[len(long) :]) == packed
    assert len(found.tiles) == len(tiles) if exact else len(found.tiles) == program_bound(len(lengths), total, rows)
    assert not found.tiles[found.tiles[:, 2] == found.tiles[:, 1]].any()
    sequence = sequence_ids(cu_seqlens, total)
    assert torch.equal(found.sequence_of_token.long(), sequence)
    for row, start, end, attempts in found.tiles.tolist():
        inside = len(set(sequence[start:end].tolist()))
        if end - start > rows:
            assert attempts == 0
        elif inside:
            assert row == start and inside + (inside > 1) <= attempts <= rows + 1


EDGES = [0, 1, 2, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS, 2 * ROWS + 1, 53]
SHAPES: dict[str, list[int]] = {
    "one of each": EDGES,
    "whole tiles": [ROWS] * 9,
    "just too long": [ROWS + 1] * 9,
    "alternating, most tiles": [ROWS, 1] * 20,
    "half and a bit": [ROWS // 2 + 1] * 21,
    "empty beside long": [0, ROWS + 1, 0] * 7,
    "a long row of empty ones": [3, *[0] * 2100, 3, *[0] * 9, ROWS],
    "thousands of short ones": [1] * 3000,
    "one long": [1000],
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    lengths = SHAPES[name]
    check_map(tile_map_of_layout(layout_of(lengths), ROWS, CPU), lengths, ROWS, exact=True)
    cu_seqlens = cu_seqlens_from_seqlens(torch.tensor(lengths, dtype=torch.int32))
    check_map(tile_map_on_device(cu_seqlens, sum(lengths), ROWS), lengths, ROWS, exact=False)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(EDGES) | st.integers(0, 70), min_size=1, max_size=60), st.sampled_from([16, 64]))
def test_host_map_and_bound(lengths: list[int], rows: int) -> None:
    long, packed = greedy(lengths, rows)
    assert len(long) + len(packed) <= program_bound(len(lengths), sum(lengths), rows)
    if sum(lengths):
        tile_map._cache.clear()
        check_map(tile_map_of_layout(layout_of(lengths), rows, CPU), lengths, rows, exact=True)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.sampled_from(EDGES) | st.integers(0, 70), min_size=1, max_size=40).filter(any))
def test_device_map(lengths: list[int]) -> None:
    cu_seqlens = cu_seqlens_from_seqlens(torch.tensor(lengths, dtype=torch.int32))
    check_map(tile_map_on_device(cu_seqlens, sum(lengths), ROWS), lengths, ROWS, exact=False)


@pytest.mark.deep
@settings(deadline=None, max_examples=400)
@given(st.lists(st.sampled_from(EDGES) | st.integers(0, 300), min_size=1, max_size=400).filter(any))
def test_device_map_of_many(lengths: list[int]) -> None:
    cu_seqlens = cu_seqlens_from_seqlens(torch.tensor(lengths, dtype=torch.int32))
    check_map(tile_map_on_device(cu_seqlens, sum(lengths), ROWS), lengths, ROWS, exact=False)


@pytest.mark.usefixtures("poisoned_empty")
def test_device_map_writes_all_it_returns() -> None:
    lengths = [0, 3, 40, 16, 16, 1, 0]
    cu_seqlens = cu_seqlens_from_seqlens(torch.tensor(lengths, dtype=torch.int32))
    check_map(tile_map_on_device(cu_seqlens, sum(lengths), ROWS), lengths, ROWS, exact=False)


def test_a_repeated_layout_is_not_built_again() -> None:
    first = tile_map_of_layout(((3, 5),), ROWS, CPU)
    assert tile_map_of_layout(((3, 5),), ROWS, CPU) is first
    assert tile_map_of_layout(((3, 5),), 2 * ROWS, CPU) is not first
    for length in range(1, 100):
        tile_map_of_layout(((3, length),), ROWS, CPU)
    assert len(tile_map._cache) <= tile_map._KEPT
