"""Grids of masked reconstruction: what went in, what the encoder saw, what the decoder put into the holes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from s4d.analysis.picture import Picture, draw_picture

GAP = 3
SAMPLE_GAP = 12
MAX_CLIPS = 3
MAX_IMAGES = 8
# Inches; few columns make a narrower picture, whose tiles have the greatest size.
WIDTH, LABEL_WIDTH, TILE = 9.6, 1.1, 1.3
ROWS = ("input", "masked", "prediction")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstructions:
    """Samples of one modality, each (n, frames, height, width, 3) uint8; `prediction` keeps the visible patches."""

    modality: str
    input: NDArray[np.uint8]
    masked: NDArray[np.uint8]
    prediction: NDArray[np.uint8]

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in ROWS}
        if len(set(shapes.values())) != 1 or self.input.ndim != 5 or self.input.shape[-1] != 3:
            raise ValueError(f"{self.modality}: expected three arrays (n, frames, height, width, 3), got {shapes}")


def reconstruction_picture(samples: Reconstructions) -> Picture:
    """Still images: one column each. Clips: one block of three rows each, frames as columns."""
    if samples.modality == "image":
        rows = [[*getattr(samples, name)[:MAX_IMAGES, 0]] for name in ROWS]
        names = list(ROWS)
    else:
        clips = range(min(MAX_CLIPS, len(samples.input)))
        rows = [[*getattr(samples, name)[clip]] for clip in clips for name in ROWS]
        names = [name for _ in clips for name in ROWS]
    montage, centres = _montage(rows)
    height, width = montage.shape[:2]
    shown = min(WIDTH - LABEL_WIDTH, TILE * max(map(len, rows)))
    size = (LABEL_WIDTH + shown, shown * height / width)

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("none")
        axes = figure.add_axes((LABEL_WIDTH / size[0], 0, 1 - LABEL_WIDTH / size[0], 1))
        axes.imshow(montage, interpolation="nearest")
        axes.set_yticks(centres, names, fontsize=13)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    what = "still images, one per column" if samples.modality == "image" else "clips, frames as columns"
    return draw_picture(
        draw,
        size=size,
        alt=f"Reconstructions of {what}: rows show {', '.join(ROWS)}.",
        caption=f"Reconstruction of {what}. Grey: masked; prediction: filled holes beside the "
        "visible patches, with the true mean and contrast of each patch, which the loss leaves open.",
    )


def _montage(rows: Sequence[Sequence[NDArray[np.uint8]]]) -> tuple[NDArray[np.uint8], list[float]]:
    """Tiles side by side on a transparent ground, blocks of three rows apart; and the middle of each row."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    blocks = (len(rows) - 1) // len(ROWS)
    shape = (len(rows) * (height + GAP) - GAP + blocks * SAMPLE_GAP, columns * (width + GAP) - GAP, 4)
    montage = np.zeros(shape, dtype=np.uint8)
    centres = []
    for index, row in enumerate(rows):
        top = index * (height + GAP) + index // len(ROWS) * SAMPLE_GAP
        centres.append(top + height / 2)
        for column, tile in enumerate(row):
            left = column * (width + GAP)
            montage[top : top + height, left : left + width, :3] = tile
            montage[top : top + height, left : left + width, 3] = 255
    return montage, centres
