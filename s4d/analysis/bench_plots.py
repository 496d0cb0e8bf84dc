"""Pictures of a benchmark run: time, speed and memory over length, tokens and experts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

# Okabe and Ito's palette, distinguishable without red and green.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "osD^vPX*"
_WORDS = {"length": "tokens of a sequence", "tokens": "tokens", "experts": "experts"}
_FEWEST_POINTS = 3

Row = Mapping[str, Any]
Lines = dict[str, list[tuple[int, Row]]]


def draw_plots(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """One PNG per op, axis and dtype with at least three points; returns the files written.

    A peer that ran in one of the cases alone is left out.
    """
    written = []
    for op, axis, dtype, lines in _sweeps(document["rows"]):
        figure = _figure(op, axis, dtype, lines, document)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{op}_{axis}_{dtype}.png"
        figure.savefig(path, dpi=110)
        written.append(path)
    return written


def _sweeps(rows: list[Row]) -> list[tuple[str, str, str, Lines]]:
    found: dict[tuple[str, str, str], Lines] = {}
    for row in rows:
        for axis, value in row["axes"].items():
            if row["phase"] == "both" and "flops_per_second" in row:
                lines = found.setdefault((row["op"], axis, row["dtype"]), {})
                lines.setdefault(row["peer"], []).append((value, row))
    return [
        (*key, {peer: sorted(points, key=lambda point: point[0]) for peer, points in lines.items() if len(points) > 1})
        for key, lines in found.items()
        if len({value for points in lines.values() for value, _ in points}) >= _FEWEST_POINTS
    ]


def _figure(op: str, axis: str, dtype: str, lines: Lines, document: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    time, speed, memory = figure.subplots(1, 3)
    _draw(time, lines, "median_ms", 1.0)
    time.set_title("forward + backward, ms", loc="left", fontsize=10)
    _logarithmic(time)
    fastest = max(row["flops_per_second"] for points in lines.values() for _, row in points)
    unit, factor = ("T", 1e-12) if fastest > 5e12 else ("G", 1e-9)
    _draw(speed, lines, "flops_per_second", factor)
    speed.set_title(f"useful {unit}FLOP/s", loc="left", fontsize=10)
    _draw(memory, lines, "peak_bytes", 1e-6)
    memory.set_title("peak memory above the inputs, MB", loc="left", fontsize=10)
    _logarithmic(memory)
    for axes in (time, speed, memory):
        _ticks(axes, sorted({value for points in lines.values() for value, _ in points}))
        axes.set_xlabel(_WORDS.get(axis, axis))
    speed.set_ylim(bottom=0)
    figure.suptitle(f"{op}, {dtype}, {document['machine']['device_name']}, {document['date'][:10]}", fontsize=11)
    handles, labels = time.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure


def _draw(axes: Axes, lines: Lines, key: str, factor: float) -> None:
    for index, (peer, points) in enumerate(lines.items()):
        automatic = any(row["automatic"] for _, row in points)
        axes.plot(
            [value for value, _ in points],
            [row[key] * factor for _, row in points],
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=5,
            linewidth=2.4 if automatic else 1.2,
            linestyle="-" if points[0][1]["backend"] else "--",
            label=peer + ("*" if automatic else ""),
        )
    axes.set_xscale("log")
    axes.grid(visible=True, which="major", alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _ticks(axes: Axes, values: list[int]) -> None:
    axes.set_xticks(values, [f"{value:,}" for value in values], fontsize=8, rotation=45)
    axes.minorticks_off()
