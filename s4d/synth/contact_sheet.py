"""One picture to judge the data by eye: stills by class and clips as film strips by class."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from s4d.synth.action_units import CLASSES
from s4d.synth.recipe import CLIP_FRAMES, Plan, render_clip, render_image

TILE = 96
COLUMNS = 12
STRIPS = 2
MARGIN = 84


def write_contact_sheet(root: Path, plan: Plan) -> Path:
    """Draw `contact_sheet.png` from the first samples of each class; returns its path."""
    rows = [(label, _stills(plan, label)) for label in CLASSES]
    for label in CLASSES:
        rows += [(label, strip) for strip in _strips(plan, label)]
    rows = [(label, tiles) for label, tiles in rows if tiles]
    sheet = Image.new("RGB", (MARGIN + COLUMNS * TILE, max(len(rows), 1) * TILE), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (label, tiles) in enumerate(rows):
        pen.text((6, row * TILE + TILE // 2 - 6), label, fill="black")
        for column, tile in enumerate(tiles):
            small = tile.resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(small, (MARGIN + column * TILE, row * TILE))
    path = root / "contact_sheet.png"
    sheet.save(path)
    return path


def _stills(plan: Plan, label: str) -> list[Image.Image]:
    indices = [index for index in range(min(plan.images, COLUMNS * len(CLASSES))) if plan.label(index) == label]
    return [Image.fromarray(render_image(plan, index)[0]) for index in indices]


def _strips(plan: Plan, label: str) -> list[list[Image.Image]]:
    indices = [index for index in range(min(plan.clips, STRIPS * len(CLASSES))) if plan.label(index) == label]
    step = CLIP_FRAMES // COLUMNS
    return [[Image.fromarray(frame) for frame in render_clip(plan, index)[0][::step]] for index in indices]
