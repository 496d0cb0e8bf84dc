"""The picture of a prediction: probability of every class over time, or of the whole where there is but one window."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from s4d.analysis.picture import SERIES, draw_png
from s4d.errors import UNPRINTED
from s4d.inference.prediction import Prediction, Window

STYLES = ("-", "--", ":")
# More classes than colours take the colours again in another style.
NAME_CHARACTERS = 60


def prediction_png(prediction: Prediction, name: str) -> bytes:
    """PNG of the prediction on the input called `name`."""
    over_time = len(prediction.windows) > 1
    bars = max(2.0, 0.9 + 0.3 * len(prediction.classes))
    with warnings.catch_warnings():
        # A name may have letters that the type lacks; they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        return draw_png(
            lambda figure: (_draw_time if over_time else _draw_whole)(figure, prediction, name),
            size=(9.0, 4.2) if over_time else (6.0, bars),
        )


def colour_of(number: int) -> str:
    """Colour of the class with this number."""
    return SERIES[number % len(SERIES)]


def middle(window: Window) -> float:
    """Where a window is drawn: its middle in seconds, or in frames where the times are not known."""
    if window.start is None or window.end is None:
        return (window.first + window.last) / 2
    return (window.start + window.end) / 2


def _title(axes: Axes, prediction: Prediction, name: str) -> None:
    shown = UNPRINTED.sub("?", name if len(name) <= NAME_CHARACTERS else f"...{name[-NAME_CHARACTERS:]}")
    text = f"{shown}: {prediction.label} ({prediction.probability:.0%})"
    axes.set_title(text, loc="left", parse_math=False)


def _draw_time(figure: Figure, prediction: Prediction, name: str) -> None:
    axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=(12, 1))
    values = np.stack([window.probabilities for window in prediction.windows])
    places = np.array([middle(window) for window in prediction.windows])
    for number, label in enumerate(prediction.classes):
        style = STYLES[number // len(SERIES) % len(STYLES)]
        axes.plot(places, values[:, number], style, color=colour_of(number), label=label)
    _title(axes, prediction, name)
    axes.set_ylim(0, 1)
    axes.set_ylabel("probability")
    axes.grid(visible=True, axis="y")
    legend = figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    for text in legend.get_texts():
        text.set_parse_math(False)
    _draw_strip(strip, values, places)
    strip.set_xlabel("seconds" if prediction.windows[0].start is not None else "frames")


def _draw_strip(axes: Axes, values: np.ndarray, places: Sequence[float] | np.ndarray) -> None:
    """Colour of the most probable class of each window, up to half-way to its neighbours."""
    middles = (np.asarray(places)[1:] + np.asarray(places)[:-1]) / 2
    edges = np.concatenate(([places[0]], middles, [places[-1]]))
    for number in sorted(set(values.argmax(1).tolist())):
        chosen = values.argmax(1) == number
        spans = list(zip(edges[:-1][chosen].tolist(), np.diff(edges)[chosen].tolist(), strict=True))
        axes.broken_barh(spans, (0, 1), facecolor=to_rgb(colour_of(number)))
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _draw_whole(figure: Figure, prediction: Prediction, name: str) -> None:
    axes = figure.subplots()
    places = np.arange(len(prediction.classes))[::-1]
    colours = [colour_of(number) for number in range(len(prediction.classes))]
    axes.barh(places, prediction.probabilities, color=colours, height=0.7)
    for place, value in zip(places, prediction.probabilities, strict=True):
        axes.text(min(value + 0.01, 0.93), place, f"{value:.0%}", va="center", fontsize=8)
    axes.set_yticks(places, prediction.classes, parse_math=False)
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability")
    _title(axes, prediction, name)
