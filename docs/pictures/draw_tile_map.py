"""Draws tile_map.svg from the tile map that the attention kernels use themselves.

`python docs/pictures/draw_tile_map.py` writes it beside this file.
"""

from __future__ import annotations

import sys
from itertools import accumulate
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from svg_parts import document, rectangle, text

from kernels.attention.tile_map import tile_map_of_layout

# Nine pictures of 10 visible tokens, two clips of 40, and one of 150 as without masking; tiles of 64 rows.
LAYOUT = ((9, 10), (2, 40), (1, 150))
ROWS = 64
TITLE = "Which products the attention kernels compute"
DESCRIPTION = (
    "The matrix of queries by keys of one packed stream. Filled squares along the diagonal are sequences. Outlined are "
    "tiles: two hold six and three short sequences, two one of forty tokens each, and three cut the longest into rows "
    "and run over all of its keys."
)
CORNER_X, CORNER_Y, SCALE = 60, 50, 1.2


def picture() -> str:
    """The whole drawing."""
    lengths = [length for count, length in LAYOUT for _ in range(count)]
    total = sum(lengths)
    side = total * SCALE
    parts = [
        text(CORNER_X, 40, "keys: all tokens of the stream, in order", anchor="start"),
        f'<text class="note" transform="translate(46 {CORNER_Y + side}) rotate(-90)">queries: the same tokens</text>',
        rectangle(CORNER_X, CORNER_Y, side, side, "thin", 0),
    ]
    starts = accumulate([0, *lengths[:-1]])
    parts += [_area(start, start, length, length, "needed") for start, length in zip(starts, lengths, strict=True)]
    tiles = tile_map_of_layout(LAYOUT, ROWS, torch.device("cpu")).tiles.tolist()
    for row, start, end, attempts in sorted(tiles):
        last = min(row + ROWS, end)
        parts.append(_area(row, start, last - row, end - start, "line"))
        words = f"holds {_count(lengths, start, end)}" if attempts else f"streams, rows {row - start} to {last - start}"
        parts.append(_label(row, last, start, end, words))
    return document(CORNER_X + int(side) + 16, CORNER_Y + int(side) + 16, TITLE, DESCRIPTION, parts)


def _area(row: int, column: int, rows: int, columns: int, kind: str) -> str:
    x, y = CORNER_X + column * SCALE, CORNER_Y + row * SCALE
    return rectangle(x, y, columns * SCALE, rows * SCALE, kind, 0)


def _count(lengths: list[int], start: int, end: int) -> str:
    borders = list(accumulate([0, *lengths]))
    number = borders.index(end) - borders.index(start)
    return f"{number} sequence{'s' if number > 1 else ''}"


def _label(row: int, last: int, start: int, end: int, words: str) -> str:
    """Right of tiles in the upper half, within those that are wide enough."""
    y = CORNER_Y + (row + last) / 2 * SCALE + 4
    if end - start > ROWS:
        return text(CORNER_X + (start + end) / 2 * SCALE, y, words)
    return text(CORNER_X + end * SCALE + 8, y, words, anchor="start")


if __name__ == "__main__":
    (Path(__file__).parent / "tile_map.svg").write_text(picture(), encoding="utf-8")
