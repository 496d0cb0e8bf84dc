"""Figures as PNG data, drawn once for light and once for dark pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 144
# Readable on white and on near-black: at least 3:1 against both, and distinct for the common forms of colour blindness.
SERIES = ("#2f7ed8", "#d9731a", "#2a9a5c", "#b55cc0", "#c08400", "#d3435a", "#6b7f99", "#1b9aa8")
COMMON = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "savefig.dpi": DPI,
}
INKS = {"light": ("#1c2430", "#5b6675", "#dfe3e8", "#ffffff"), "dark": ("#e8ecf1", "#a4afbd", "#333b46", "#171b21")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One figure in both colour schemes (data URIs), with the text that stands for it and the line below it."""

    light: str
    dark: str
    alt: str
    caption: str
    width: int


def draw_picture(draw: Callable[[Figure], None], *, size: tuple[float, float], alt: str, caption: str) -> Picture:
    """Let `draw` fill a figure of `size` inches once per colour scheme."""
    uris = {name: _data_uri(_png(draw, size, rc)) for name, rc in ((name, _style(name)) for name in INKS)}
    return Picture(light=uris["light"], dark=uris["dark"], alt=alt, caption=caption, width=round(size[0] * 100))


def draw_png(draw: Callable[[Figure], None], *, size: tuple[float, float]) -> bytes:
    """Let `draw` fill a figure of `size` inches in the light colours, for a file of its own."""
    return _png(draw, size, _style("light"))


def _style(scheme: str) -> dict[str, object]:
    ink, muted, line, paper = INKS[scheme]
    return {
        **COMMON,
        "text.color": ink,
        "axes.labelcolor": muted,
        "axes.edgecolor": muted,
        "axes.titlecolor": ink,
        "xtick.color": muted,
        "ytick.color": muted,
        "grid.color": line,
        "figure.facecolor": paper,
        "axes.facecolor": paper,
        "savefig.facecolor": paper,
    }


def _png(draw: Callable[[Figure], None], size: tuple[float, float], style: dict[str, object]) -> bytes:
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        draw(figure)
        buffer = io.BytesIO()
        canvas.print_png(buffer)
    return buffer.getvalue()


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
