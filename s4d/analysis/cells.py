"""Numbers as coloured cells of a figure, with what is written on them legible in either colour scheme."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.image import AxesImage
from numpy.typing import NDArray

# From the ground of the page, where nothing is, to what stands out most from it.
RAMPS = {"light": ("#2f7ed8", "#082b57"), "dark": ("#2a65ab", "#b4d6fb")}
INKS = ("#000000", "#ffffff")


def shades() -> Colormap:
    """Colours of shares and counts on the ground of the figure being drawn."""
    ground = matplotlib.rcParams["axes.facecolor"]
    scheme = "dark" if luminance(to_rgb(ground)) < 0.18 else "light"
    return LinearSegmentedColormap.from_list("shades", [ground, *RAMPS[scheme]])


def write_cells(
    axes: Axes,
    values: NDArray[np.float64],
    *,
    number: str,
    limits: tuple[float, float],
    colours: str | None = None,
    fontsize: float = 8,
) -> AxesImage:
    """Fill `axes` with a table of `values`, each written in its cell (NaN: a dash); `colours`: a map of matplotlib."""
    scale = shades() if colours is None else matplotlib.colormaps[colours]
    place = Normalize(*limits, clip=True)
    image = axes.imshow(values, cmap=scale, norm=place, aspect="auto")
    ground = to_rgb(matplotlib.rcParams["axes.facecolor"])
    for (row, column), value in np.ndenumerate(values):
        colour = scale(place(value))[:3] if np.isfinite(value) else ground
        text = number.format(value) if np.isfinite(value) else "-"
        axes.text(column, row, text, ha="center", va="center", color=ink_on(colour), fontsize=fontsize)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def ink_on(colour: Sequence[float]) -> str:
    """Black or white, whichever is easier to read on `colour`; never below 4.5 to 1."""
    return max(INKS, key=lambda ink: contrast(to_rgb(ink), colour))


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    """Contrast of two colours (red, green, blue from 0 to 1) as WCAG 2 defines it: 1 to 21."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: Sequence[float]) -> float:
    """Relative luminance of an sRGB colour, 0 to 1."""
    parts = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3])
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))
