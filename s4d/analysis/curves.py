"""Training curves of one run from its metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeGuard

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from s4d.analysis.picture import SERIES, Picture, draw_picture

Metrics = Sequence[Mapping[str, float]]
SIZE = (4.8, 3.0)
WINDOW_SHARE = 0.05
ENOUGH_TO_SMOOTH = 20


def series(metrics: Metrics, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of the records that hold a number under `key`."""
    pairs = [(record["step"], record[key]) for record in metrics if is_number(record.get(key))]
    return [float(step) for step, _ in pairs], [float(value) for _, value in pairs]


def is_number(value: object) -> TypeGuard[int | float]:
    """A finite int or float, not a truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value - value == 0


def curve_pictures(metrics: Metrics) -> list[Picture]:
    """Loss, its parts, learning rate and gradient norm over steps; what was not recorded is left out."""
    keys = list(dict.fromkeys(key for record in metrics for key in record))
    wanted = [
        ("loss", ["loss"], "Loss."),
        ("loss by modality", _below(keys, "loss/"), "Parts of the loss, before weighting."),
        ("training accuracy", _below(keys, "accuracy/"), "Share of training samples whose (mixed) target is hit."),
        ("balance term", _below(keys, "balance/"), "Load-balance term of the experts, before weighting."),
        ("learning rate", ["lr"], "Learning rate."),
        ("gradient norm", ["grad_norm"], "Norm of the gradient before clipping."),
    ]
    pictures = []
    for title, names, caption in wanted:
        names = [name for name in names if series(metrics, name)[0]]
        if names:
            pictures.append(_picture(metrics, title, names, caption))
    return pictures


def _below(keys: Sequence[str], prefix: str) -> list[str]:
    return [key for key in keys if key.startswith(prefix)]


def _picture(metrics: Metrics, title: str, names: list[str], caption: str) -> Picture:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, name in enumerate(names):
            _line(axes, *series(metrics, name), color=SERIES[index % len(SERIES)], label=name.partition("/")[2] or name)
        axes.set_title(title, loc="left")
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.grid(axis="y")
        axes.margins(x=0.01)
        if len(names) > 1:
            axes.legend()

    ends = "; ".join(f"{name} from {v[0]:.4g} to {v[-1]:.4g}" for name in names for v in [series(metrics, name)[1]])
    if names != ["lr"] and len(metrics) >= ENOUGH_TO_SMOOTH:
        caption += " Pale: as logged; strong: smoothed."
    return draw_picture(draw, size=SIZE, alt=f"Line chart of {title} over steps: {ends}.", caption=caption)


def _line(axes: Axes, steps: list[float], values: list[float], *, color: str, label: str) -> None:
    if label == "lr" or len(values) < ENOUGH_TO_SMOOTH:
        axes.plot(steps, values, color=color, label=label)
        return
    axes.plot(steps, values, color=color, alpha=0.3, linewidth=0.9)
    axes.plot(steps, smoothed(values), color=color, label=label)


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean over a centred window of a twentieth of the run, shrinking towards the ends."""
    reach = max(1, int(len(values) * WINDOW_SHARE / 2))
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
