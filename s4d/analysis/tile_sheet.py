"""Pictures in rows with a name in front: one look at many samples."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

TILE = 96
PADDING = 6
FONT_SIZE = 13


def draw_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], *, columns: int) -> Image.Image:
    """One row per (name, pictures), each picture scaled into a square of TILE pixels with its aspect kept.

    At most `columns` pictures of a row are shown.
    """
    columns = min(columns, max((len(pictures) for _, pictures in rows), default=0))
    font = ImageFont.load_default(FONT_SIZE)
    margin = PADDING * 2 + max((int(font.getlength(name)) for name, _ in rows), default=0)
    sheet = Image.new("RGB", (margin + columns * TILE, max(len(rows), 1) * TILE), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (name, pictures) in enumerate(rows):
        pen.text((PADDING, number * TILE + TILE // 2 - FONT_SIZE // 2), name, fill="black", font=font)
        for column, picture in enumerate(pictures[:columns]):
            small = fit(picture)
            left = margin + column * TILE + (TILE - small.width) // 2
            sheet.paste(small, (left, number * TILE + (TILE - small.height) // 2))
    return sheet


def fit(picture: Image.Image) -> Image.Image:
    """The picture in the largest size that a tile holds."""
    scale = TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)
