"""Tables of numbers drawn as coloured cells with the numbers in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from s4d.analysis.cells import write_cells
from s4d.analysis.picture import Picture, draw_picture


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """One table of a figure: its values, names of rows and columns, its title and the names of its axes."""

    values: NDArray[np.float64]
    rows: Sequence[str]
    columns: Sequence[str]
    title: str
    down: str
    across: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Colours between two values (None: the shades of the page), and how a number is written in its cell."""

    low: float
    high: float
    colours: str | None
    number: str


SHARES = Scale(low=0.0, high=1.0, colours=None, number="{:.0%}")
COSINES = Scale(low=-1.0, high=1.0, colours="RdBu_r", number="{:+.2f}")
ALIGNMENTS = Scale(low=0.0, high=1.0, colours="viridis", number="{:.2f}")


def heat_maps(grids: Sequence[Grid], scale: Scale, *, alt: str, caption: str) -> Picture:
    """A figure of tables side by side on one scale."""
    rows, columns = (
        max(len(names) for names in side) for side in ([g.rows for g in grids], [g.columns for g in grids])
    )
    labels = max(len(name) for grid in grids for name in grid.rows)
    width = 0.5 * columns + 0.075 * labels + 0.7
    height = 0.38 * rows + 0.055 * max(len(name) for grid in grids for name in grid.columns) + 0.9

    def draw(figure: Figure) -> None:
        for axes, grid in zip(figure.subplots(1, len(grids), squeeze=False)[0], grids, strict=True):
            _draw(axes, grid, scale)

    return draw_picture(draw, size=(max(4.8, width * len(grids)), height), alt=alt, caption=caption)


def _draw(axes: Axes, grid: Grid, scale: Scale) -> None:
    limits = (scale.low, scale.high)
    write_cells(axes, grid.values, number=scale.number, limits=limits, colours=scale.colours, fontsize=7.5)
    axes.set_xticks(range(len(grid.columns)), grid.columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(grid.rows)), grid.rows)
    axes.set_ylabel(grid.down)
    axes.set_xlabel(grid.across)
    axes.set_title(grid.title, loc="left")


def row_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each row of counts divided by its sum; NaN in a row without any."""
    totals = counts.sum(1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)
