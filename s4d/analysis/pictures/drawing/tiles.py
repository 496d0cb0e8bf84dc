"""Frames side by side with something drawn over their patches, one block per sample with its caption.

Letters: m drawn samples, S temporal slices, R rows, C columns of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from s4d.analysis.picture import SERIES
from s4d.analysis.pictures.record import SourcePictures

Tile = NDArray[np.float64]

# Pixels between tiles.
GAP = 3
# Inches.
WIDTH = 9.6
LABEL_WIDTH = 0.8
TITLE_LINE = 0.16
MOST_SIDE = 1.6
# Of a tile, between still images.
STILL_GAP = 0.08
# For data with up to twelve classes: readable on both grounds, as the series are.
MORE = ("#8f6b46", "#6f961c", "#7f6fe0", "#cf4a9c")
# Of the picture drawn over a frame; the rest is the frame in grey.
OVERLAY = 0.5


def palette(count: int) -> list[tuple[float, ...]]:
    """As many distinct colours as asked for; beyond twelve they are steps around the colour circle."""
    known = (*SERIES, *MORE)
    if count <= len(known):
        return [to_rgb(color) for color in known[:count]]
    return [tuple(color[:3]) for color in matplotlib.colormaps["hsv"](np.linspace(0, 1, count, endpoint=False))]


def slice_frames(source: SourcePictures) -> Tile:
    """The first frame of each temporal slice, (m, S, height, width, 3) in [0, 1]."""
    frames, slices = source.frames.shape[1], source.relevance.shape[1]
    chosen: Tile = source.frames[:, :: frames // slices] / 255.0
    return chosen


def overlaid(frames: Tile, colors: Tile) -> Tile:
    """Frames (..., height, width, 3) in grey under one colour per patch, (..., R, C, 3)."""
    height, width = frames.shape[-3:-1]
    rows, columns = colors.shape[-3:-1]
    large = colors.repeat(height // rows, axis=-3).repeat(width // columns, axis=-2)
    grey = (frames @ [0.299, 0.587, 0.114])[..., None]
    mixed: Tile = (1 - OVERLAY) * grey + OVERLAY * large
    return mixed


def montage(rows: Sequence[Tile]) -> tuple[Tile, list[float]]:
    """Rows of tiles (S, height, width, 3) as one picture on a transparent ground, and the middle of each row."""
    count, height, width = rows[0].shape[:3]
    picture = np.zeros((len(rows) * (height + GAP) - GAP, count * (width + GAP) - GAP, 4))
    for number, row in enumerate(rows):
        top = number * (height + GAP)
        for place, tile in enumerate(row):
            left = place * (width + GAP)
            picture[top : top + height, left : left + width] = np.dstack((tile, np.ones(tile.shape[:2])))
    return picture, [number * (height + GAP) + height / 2 for number in range(len(rows))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """Places of `samples` blocks of `rows` rows in a figure, in inches: clips one below the other, stills side by side.

    `bars` tile widths stay free right of the tiles of each block, `foot` below all and `margin` right of all.
    """

    source: SourcePictures
    rows: int
    samples: int
    bars: float = 0.0
    foot: float = 0.0
    margin: float = 0.0

    @property
    def still(self) -> bool:
        """Whether a block is one tile wide."""
        return self.source.modality == "image"

    @property
    def across(self) -> float:
        """Tile widths of all blocks that stand side by side, gaps included."""
        block = self.source.relevance.shape[1] + self.bars
        return self.samples * (block + STILL_GAP) if self.still else block

    @property
    def side(self) -> float:
        """Inches of a tile; few samples shall not become posters."""
        return min((WIDTH - LABEL_WIDTH - self.margin) / self.across, MOST_SIDE)

    @property
    def title(self) -> float:
        """Inches above a block."""
        return TITLE_LINE * (3 if self.still else 1) + 0.15

    @property
    def size(self) -> tuple[float, float]:
        """Inches of the figure."""
        blocks = 1 if self.still else self.samples
        height = blocks * (self.title + self.rows * self.side) + self.foot
        return LABEL_WIDTH + self.across * self.side + self.margin, height

    def axes(self, figure: Figure) -> list[Axes]:
        """An empty field per sample."""
        figure.set_layout_engine("none")
        width, height = self.size
        tall, wide = self.rows * self.side, (self.source.relevance.shape[1] + self.bars) * self.side
        fields = []
        for number in range(self.samples):
            left = LABEL_WIDTH + (number * (wide + STILL_GAP * self.side) if self.still else 0)
            top = self.title + (0 if self.still else number * (self.title + tall))
            place = (left / width, 1 - (top + tall) / height, wide / width, tall / height)
            fields.append(figure.add_axes(place, anchor="NW"))
        return fields


def draw_block(axes: Axes, rows: Sequence[Tile], labels: Sequence[str], title: str) -> None:
    """Fill a field with rows of tiles."""
    picture, centres = montage(rows)
    axes.imshow(picture, interpolation="nearest")
    axes.set_yticks(centres, labels)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", fontsize=9)


def title_of(source: SourcePictures, number: int) -> str:
    """What sample `number` is, what it was taken for and why it is shown; in short lines for a still image."""
    if source.modality != "image":
        return in_words(source, number)
    sample = source.drawn[number]
    return f"{sample.label}\n\N{RIGHTWARDS ARROW} {sample.prediction} {_sureness(source, number)}\n({sample.rule})"


def in_words(source: SourcePictures, number: int) -> str:
    """What sample `number` is, what it was taken for and why it is shown."""
    sample = source.drawn[number]
    return f"{sample.label}, predicted {sample.prediction} {_sureness(source, number)} ({sample.rule})"


def _sureness(source: SourcePictures, number: int) -> str:
    return f"{source.probabilities[number].max():.0%}"


def described(source: SourcePictures, numbers: Sequence[int]) -> str:
    """The samples in words, for the text that stands for a picture."""
    return "; ".join(f"{source.drawn[number].sample_id}: {in_words(source, number)}" for number in numbers)
