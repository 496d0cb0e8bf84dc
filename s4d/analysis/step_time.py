"""Where the time of a step goes, from the `time/...` numbers of metrics.jsonl."""

from __future__ import annotations

import statistics

from matplotlib.figure import Figure

from s4d.analysis.curves import Metrics, series
from s4d.analysis.picture import SERIES, Picture, draw_picture

TOTAL = "time/step"


def time_split(metrics: Metrics) -> dict[str, float]:
    """Median seconds of a step, of each of its recorded parts and, as `compute`, of the rest; empty if not recorded.

    The first logged record is left out: it holds the start-up.
    """
    later = metrics[1:] if len(metrics) > 1 else metrics
    if not series(later, TOTAL)[1]:
        return {}
    keys = [key for key in dict.fromkeys(key for record in later for key in record) if _is_duration(key)]
    medians = {
        key.removeprefix("time/"): statistics.median(series(later, key)[1]) for key in keys if series(later, key)[1]
    }
    total = medians.pop("step")
    return {"step": total, **medians, "compute": max(0.0, total - sum(medians.values()))}


def _is_duration(key: str) -> bool:
    return key.startswith("time/") and not key.endswith("_per_second")


def time_picture(metrics: Metrics) -> Picture | None:
    """One stacked bar of the median step; None if the times were not recorded."""
    split = time_split(metrics)
    if not split:
        return None
    total = split["step"]
    parts = {name: seconds for name, seconds in split.items() if name != "step"}

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        left = 0.0
        for index, (name, seconds) in enumerate(parts.items()):
            label = f"{name} {seconds * 1e3:.0f} ms ({seconds / total:.0%})"
            axes.barh([0], [seconds * 1e3], left=left, color=SERIES[index % len(SERIES)], height=0.5, label=label)
            left += seconds * 1e3
        axes.set_title(f"median step: {total * 1e3:.0f} ms", loc="left")
        axes.set_xlabel("milliseconds")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-0.4, 0.4)
        figure.legend(loc="outside lower left", ncols=2)

    text = ", ".join(f"{name} {seconds * 1e3:.0f} ms" for name, seconds in parts.items())
    return draw_picture(
        draw,
        size=(4.8, 1.8),
        alt=f"Stacked bar of the median step of {total * 1e3:.0f} ms: {text}.",
        caption="Where the time of a step goes.",
    )
