"""The page about a dataset: findings, counts, class balance, faces, contact sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from s4d.analysis.html_page import render_page
from s4d.analysis.picture import SERIES, Picture, draw_picture

SHOWN = 40
BARS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Findings of one code."""

    severity: str
    code: str
    lines: tuple[str, ...]


def render_data_page(
    *,
    title: str,
    tiles: Sequence[tuple[str, str]],
    looked_at: str,
    groups: Sequence[Group],
    counts: Mapping[str, Mapping[str, int]],
    histograms: Mapping[str, tuple[Sequence[float], str]],
    sheet: Image.Image,
) -> str:
    """One HTML document; `histograms` has values and the name of their axis by title."""
    names = list(dict.fromkeys(name for part in counts.values() for name in part))
    rows = [(name, *(f"{part.get(name, 0):,}" for part in counts.values())) for name in names]
    rows.append(("all", *(f"{sum(part.values()):,}" for part in counts.values())))
    pictures = [_balance(counts, names)] if len(names) > 1 else []
    pictures += [_histogram(title, values, axis) for title, (values, axis) in histograms.items() if len(values)]
    return render_page(
        "data_page.html.j2",
        title=title,
        tiles=tiles,
        looked_at=looked_at,
        groups=groups,
        shown=SHOWN,
        columns=["class", *counts] if counts else [],
        rows=rows,
        pictures=pictures,
        sheet=_data_uri(sheet),
        sheet_width=sheet.width,
    )


def _balance(counts: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> Picture:
    """Share of each class in the first parts; shares, because splits differ in size."""
    parts = list(counts)[:BARS]
    height = 0.8 / len(parts)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, part in enumerate(parts):
            total = sum(counts[part].values())
            shares = [counts[part].get(name, 0) / total for name in names]
            places = np.arange(len(names)) + (index - (len(parts) - 1) / 2) * height
            axes.barh(places, shares, height * 0.9, color=SERIES[index % len(SERIES)], label=part)
        axes.set_yticks(np.arange(len(names)), names)
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.set_title("class balance", loc="left")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

    share = {name: counts[parts[0]].get(name, 0) for name in names}
    alt = f"Share of each class in {', '.join(parts)}; in {parts[0]}: " + ", ".join(
        f"{k} {v}" for k, v in share.items()
    )
    left_out = "" if len(parts) == len(counts) else f" The first {len(parts)} of {len(counts)} parts."
    size = (5.2, max(2.4, 0.34 * len(names) + 0.8))
    return draw_picture(draw, size=size, alt=alt, caption=f"Share of each class in its split.{left_out}")


def _histogram(title: str, values: Sequence[float], axis: str) -> Picture:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.hist(values, bins=40, color=SERIES[0])
        axes.set_title(title, loc="left")
        axes.set_xlabel(axis)
        axes.set_ylabel("faces")
        axes.grid(axis="y")
        axes.set_axisbelow(True)

    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    text = f"{len(values)} faces; 5 %, 50 % and 95 % at {low:.3g}, {middle:.3g} and {high:.3g}."
    return draw_picture(draw, size=(5.2, 2.8), alt=f"Histogram of the {title}: {text}", caption=text)


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
