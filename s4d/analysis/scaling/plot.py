"""The picture of a scaling study: samples a second and efficiency over ranks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s4d.analysis.bench_plots import COLOURS, MARKERS

LINES = {"strong": "-", "weak": "--"}


def draw_scaling(document: Mapping[str, Any], path: Path) -> None:
    """One PNG with a line for each mode and ZeRO stage of `document`'s rows."""
    figure = Figure(figsize=(8.4, 4.0), layout="constrained")
    rate, efficiency = figure.subplots(1, 2)
    rows = document["rows"]
    ranks = sorted({row["ranks"] for row in rows})
    for mode in dict.fromkeys(row["mode"] for row in rows):
        for index, stage in enumerate(sorted({row["stage"] for row in rows})):
            chosen = [row for row in rows if (row["mode"], row["stage"]) == (mode, stage)]
            for axes, key in ((rate, "samples_per_second"), (efficiency, "efficiency")):
                axes.plot(
                    [row["ranks"] for row in chosen],
                    [row[key] for row in chosen],
                    LINES[mode],
                    color=COLOURS[index % len(COLOURS)],
                    marker=MARKERS[index % len(MARKERS)],
                    label=f"{mode}, ZeRO {stage}",
                )
    rate.set_title("samples a second", loc="left", fontsize=10)
    efficiency.set_title(f"efficiency against {min(ranks)} rank(s)", loc="left", fontsize=10)
    efficiency.axhline(1.0, color="#999999", linewidth=0.8)
    for axes in (rate, efficiency):
        _finish(axes, ranks)
    figure.suptitle(f"{document['config']}, {document['machine']['device_name']}, {document['date'][:10]}", fontsize=11)
    handles, labels = rate.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _finish(axes: Axes, ranks: list[int]) -> None:
    axes.set_xticks(ranks, [str(count) for count in ranks])
    axes.set_xlabel("ranks")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
