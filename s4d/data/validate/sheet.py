"""A contact sheet: some samples of each class, with the face where it is known."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from s4d.analysis.tile_sheet import TILE, draw_sheet, fit
from s4d.data.counter import stable_key
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest
from s4d.data.media import open_media
from s4d.data.media_limits import media_path
from s4d.data.pillow_memory import picture_of
from s4d.data.scan.pool import Lost, run_tasks
from s4d.errors import DataError

COLUMNS = 10
# Frames of a clip side by side, so that its motion and its crop show.
CLIP_FRAMES = 2
MAX_ROWS = 60
SECONDS = 60.0
UNLABELLED = "(no label)"

Tiles = list[NDArray[np.uint8]]


def contact_sheet(manifest: Manifest, *, workers: int) -> Image.Image:
    """One row per class, all splits and folds together; media that cannot be read show as crossed tiles."""
    chosen = {label: list(_chosen(manifest, label)) for label in _labels(manifest)}
    rows = [row for group in chosen.values() for row in group]
    tiles: dict[str, Tiles] = {}
    look = partial(_tiles, manifest.root)
    for row, outcome in run_tasks(look, rows, workers=workers, seconds=lambda row: SECONDS):
        tiles[row.path] = [] if isinstance(outcome, Lost) else outcome
    pictures = {path: [Image.fromarray(tile) for tile in found] or [_crossed()] for path, found in tiles.items()}
    lines = [(label, [tile for row in group for tile in pictures[row.path]]) for label, group in chosen.items()]
    return draw_sheet(lines, columns=COLUMNS)


def _labels(manifest: Manifest) -> list[str]:
    has_unlabelled = any(row.label is None for row in manifest.rows)
    return [*manifest.classes[:MAX_ROWS], *([UNLABELLED] if has_unlabelled else [])]


def _chosen(manifest: Manifest, label: str) -> Iterator[ManifestRow]:
    """Rows of a class, as many as fill a line of tiles; which ones depends on their names alone."""
    wanted = None if label == UNLABELLED else label
    media = {row.path: row for row in manifest.rows if row.label == wanted}
    free = COLUMNS
    for row in sorted(media.values(), key=lambda row: (stable_key("sheet", row.path), row.path)):
        free -= 1 if row.kind == "image" else CLIP_FRAMES
        if free < 0:
            return
        yield row


def _tiles(root: Path, row: ManifestRow) -> Tiles:
    """The image, or frames of the clip, scaled to a tile; empty if it cannot be read."""
    try:
        media = open_media(media_path(root, row.path, row.path), row.kind)
        places = [0] if row.kind == "image" else [media.frame_count // 4, 3 * media.frame_count // 4]
        frames = media.frames(places)
    except DataError:
        return []
    scale = TILE / max(media.size)
    return [_marked(frames[place], row, scale) for place in places]


def _marked(pixels: NDArray[np.uint8], row: ManifestRow, scale: float) -> NDArray[np.uint8]:
    tile = fit(picture_of(pixels))
    pen = ImageDraw.Draw(tile)
    if row.face_box is not None:
        left, top, right, bottom = (scale * edge for edge in row.face_box)
        pen.rectangle((min(left, right), min(top, bottom), max(left, right), max(top, bottom)), outline="red")
    points = row.face_points or ()
    for x, y in zip(points[::2], points[1::2], strict=True):
        pen.ellipse((scale * x - 1, scale * y - 1, scale * x + 1, scale * y + 1), fill="lime")
    return np.asarray(tile)


def _crossed() -> Image.Image:
    tile = Image.new("RGB", (TILE, TILE), "lightgrey")
    pen = ImageDraw.Draw(tile)
    pen.line((0, 0, TILE, TILE), fill="red", width=2)
    pen.line((0, TILE, TILE, 0), fill="red", width=2)
    return tile
