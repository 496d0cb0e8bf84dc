"""Which rows each program of the Triton attention works on.

A tile is (first row, start, end, attempts): rows [first row, first row + ROWS) of [start, end). If end - start <= ROWS
the range holds whole sequences and the tile is *contained*; otherwise it is one longer sequence, cut into tiles from
its start, and the tile *streams* over the keys of [start, end). Tiles of longer sequences come first. Packing is
greedy: whole sequences in their order as long as they fit, none beyond a longer sequence. So two neighbouring contained
tiles hold more than ROWS rows, and a batch needs at most ``program_bound`` tiles.

``attempts`` is how often a contained tile may have to run: once, and where several sequences lie in it once more for
each, see ``triton_forward``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kernels.attention.triton_tile_map import launch_tile_map
from kernels.varlen import Layout

_KEPT = 32
_cache: OrderedDict[tuple[object, ...], TileMap] = OrderedDict()
_captured: list[TileMap] = []


@dataclass(frozen=True, kw_only=True, slots=True)
class TileMap:
    """``tiles`` (P, 4) int32, empty ones all zero, and ``sequence_of_token`` (T,) int32."""

    tiles: Tensor
    sequence_of_token: Tensor


def program_bound(batch: int, total_tokens: int, rows: int) -> int:
    """The most tiles any batch of these sizes needs."""
    return min(batch + total_tokens // rows, 3 * -(-total_tokens // rows) + 1)


def tile_map_of_layout(layout: Layout, rows: int, device: torch.device) -> TileMap:
    """The map of a layout known to the host, kept so that a repeated layout copies nothing to the device.

    A map used while a CUDA graph is captured is kept for good, since the graph reads its memory.
    """
    key = (layout, rows, device)
    found = _cache.get(key)
    if found is None:
        runs = np.array(layout, dtype=np.int64).reshape(-1, 2)
        lengths = np.repeat(runs[:, 1], runs[:, 0])
        sequence_of_token = np.repeat(np.arange(lengths.size, dtype=np.int32), lengths)
        packed = _packed_tiles(layout, rows)
        sequences = sequence_of_token[packed[:, 2] - 1] - sequence_of_token[packed[:, 0]] + 1
        attempts = np.minimum(sequences + (sequences > 1), rows + 1)[:, None]
        tiles = torch.from_numpy(np.concatenate((_long_tiles(runs, rows), np.hstack((packed, attempts)))))
        found = TileMap(tiles=tiles.to(device), sequence_of_token=torch.from_numpy(sequence_of_token).to(device))
        _cache[key] = found
        while len(_cache) > _KEPT:
            _cache.popitem(last=False)
    _cache.move_to_end(key)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _captured.append(found)
    return found


def tile_map_on_device(cu_seqlens: Tensor, total_tokens: int, rows: int) -> TileMap:
    """The map of lengths only the device knows, built there in one launch; ``program_bound`` tiles, some empty."""
    programs = program_bound(cu_seqlens.shape[0] - 1, total_tokens, rows)
    tiles, sequence_of_token = launch_tile_map(cu_seqlens, total_tokens, rows, programs)
    return TileMap(tiles=tiles, sequence_of_token=sequence_of_token)


def _long_tiles(runs: np.ndarray, rows: int) -> np.ndarray:
    """Tiles of the sequences longer than ``rows``, longest first."""
    starts = np.cumsum(runs[:, 0] * runs[:, 1]) - runs[:, 0] * runs[:, 1]
    parts = [np.zeros((0, 4), dtype=np.int32)]
    for run in np.argsort(-runs[:, 1], kind="stable"):
        count, length = runs[run]
        if length > rows:
            start = starts[run] + length * np.repeat(np.arange(count), -(-length // rows))
            row = start + np.tile(np.arange(0, length, rows), count)
            parts.append(np.stack((row, start, start + length, 0 * row), 1).astype(np.int32))
    return np.concatenate(parts)


def _packed_tiles(layout: Layout, rows: int) -> np.ndarray:
    """Tiles of whole sequences: those of one run in closed form, the tile across a border of runs carried over."""
    parts = [np.zeros((0, 2), dtype=np.int64)]
    start = end = 0
    for count, length in layout:
        if count * length == 0:
            continue
        if length > rows:
            parts.append(np.array([(start, end)]))
            start = end = end + count * length
            continue
        joined = min(count, (rows - (end - start)) // length)
        end += joined * length
        if joined < count:
            parts.append(np.array([(start, end)]))
            step = rows // length * length
            whole, rest = divmod((count - joined) * length, step)
            starts = end + step * np.arange(whole if rest else whole - 1)
            parts.append(np.stack((starts, starts + step), 1))
            start = end + step * len(starts)
            end += (count - joined) * length
    parts.append(np.array([(start, end)]))
    borders = np.concatenate(parts)
    borders = borders[borders[:, 1] > borders[:, 0]]
    return np.stack((borders[:, 0], borders[:, 0], borders[:, 1]), 1).astype(np.int32)


def layout_of_numbers(numbers: Sequence[int]) -> Layout:
    """Runs (count, length) from the flat list that a custom op takes."""
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))
