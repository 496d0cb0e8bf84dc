"""One picture to judge the data by eye: stills by class and clips as film strips by class."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from s4d.analysis.tile_sheet import draw_sheet
from s4d.synth.action_units import CLASSES
from s4d.synth.recipe import CLIP_FRAMES, Plan, render_clip, render_image

COLUMNS = 12
STRIPS = 2


def write_contact_sheet(root: Path, plan: Plan) -> Path:
    """Draw `contact_sheet.png` from the first samples of each class; returns its path."""
    rows = [(label, _stills(plan, label)) for label in CLASSES]
    for label in CLASSES:
        rows += [(label, strip) for strip in _strips(plan, label)]
    rows = [(label, tiles) for label, tiles in rows if tiles]
    sheet = draw_sheet(rows, columns=COLUMNS)
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
