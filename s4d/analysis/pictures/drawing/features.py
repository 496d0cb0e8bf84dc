"""Test samples of both modalities on one plane, with what is near what in numbers."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s4d.analysis.picture import Picture, draw_picture
from s4d.analysis.pictures.drawing.tiles import palette
from s4d.analysis.pictures.record import FeatureMap
from s4d.analysis.predictions import MODALITIES

MARKERS = ("o", "^")
MEASURES = {
    "same_class": "same class",
    "same_class_across": "same class,\namong the other\nmodality only",
    "other_modality": "other modality",
}


def feature_picture(features: FeatureMap) -> Picture:
    """The map, and bars of neighbour shares beside it."""

    def draw(figure: Figure) -> None:
        plane, bars = figure.subplots(1, 2, width_ratios=(2.6, 1))
        _draw_plane(plane, features)
        _draw_bars(bars, features.numbers)

    numbers = features.numbers
    shares = ", ".join(
        f"{name.replace(chr(10), ' ')} {numbers[key]:.0%} (chance {numbers[f'{key}_chance']:.0%})"
        for key, name in MEASURES.items()
        if key in numbers
    )
    counts = " and ".join(
        f"{int((features.modalities == number).sum())} {name}s"
        for number, name in enumerate(MODALITIES)
        if (features.modalities == number).any()
    )
    silhouette = f"; silhouette by class {numbers['silhouette']:.2f}" if "silhouette" in numbers else ""
    neighbours = int(numbers["neighbours"])
    return draw_picture(
        draw,
        size=(9.6, 5.2),
        alt=f"t-SNE map of pooled features of {counts}. Among the {neighbours} nearest neighbours: {shares}"
        f"{silhouette}.",
        caption=f"t-SNE of the pooled features of {counts} of the test split, evenly spaced by sample id (perplexity "
        f"{features.perplexity:.3g}, begun from principal components, fixed seed). It shows who is next to whom; "
        f"distances between groups and their sizes mean nothing. Bars: the {neighbours} nearest neighbours among "
        f"the {features.dim}-dimensional features themselves; the line is chance{silhouette}.",
    )


def _draw_plane(axes: Axes, features: FeatureMap) -> None:
    colors = []
    for number, (name, color) in enumerate(zip(features.classes, palette(len(features.classes)), strict=True)):
        for modality, marker in enumerate(MARKERS):
            mine = (features.labels == number) & (features.modalities == modality)
            points = features.points[mine]
            axes.scatter(points[:, 0], points[:, 1], s=16, marker=marker, color=color, alpha=0.75, linewidths=0)
        colors.append(axes.scatter([], [], s=30, marker="s", color=color, label=name))
    ink = axes.xaxis.label.get_color()
    shapes = [
        axes.scatter([], [], s=24, marker=MARKERS[modality], color=ink, label=MODALITIES[modality])
        for modality in np.unique(features.modalities)
    ]
    axes.add_artist(axes.legend(handles=shapes, loc="upper left", fontsize=8.5, handletextpad=0.2))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.legend(handles=colors, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=5, fontsize=8.5, handletextpad=0.2)


def _draw_bars(axes: Axes, numbers: dict[str, float]) -> None:
    names = [key for key in MEASURES if key in numbers]
    color, ink = palette(1)[0], axes.xaxis.label.get_color()
    for place, key in enumerate(names):
        value, chance = numbers[key], numbers[f"{key}_chance"]
        axes.barh(place, value, height=0.5, color=color)
        axes.plot([chance, chance], [place - 0.36, place + 0.36], color=ink, linewidth=1.6)
        axes.text(max(value, chance) + 0.03, place, f"{value:.0%}", va="center", fontsize=9)
    axes.set_yticks(range(len(names)), [MEASURES[key] for key in names])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15)
    axes.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    axes.tick_params(axis="y", length=0)
    axes.set_title("nearest neighbours")
