"""The tasks' gradients over training: cosines by kind of weight, and by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from s4d.analysis.correlation.agreement import Agreement
from s4d.analysis.correlation.gradients import CheckpointGradients, GradientStudy, RunGradients
from s4d.analysis.correlation.heat_map import COSINES, SHARES, Grid, Scale, heat_maps
from s4d.analysis.correlation.parameter_kinds import KINDS
from s4d.analysis.picture import SERIES, Picture, draw_picture

SHARED = "all shared weights"
TITLES = {"rest": "norms and embedding"}
MOST_COLUMNS = 10
SIDE_BY_SIDE = 2


def gradient_pictures(study: GradientStudy) -> list[Picture]:
    """Lines by kind of weight, then heat maps by layer, two runs a picture: cosine, share of batches in conflict."""
    pictures = [_lines(study)]
    for first in range(0, len(study.runs), SIDE_BY_SIDE):
        runs = study.runs[first : first + SIDE_BY_SIDE]
        pictures.append(
            _by_layer(
                runs,
                lambda found: found.cosine,
                COSINES,
                title="cosine",
                caption="Mean cosine between the tasks' gradients by layer and step. Below 0 the tasks pull apart.",
            )
        )
        pictures.append(
            _by_layer(
                runs,
                lambda found: found.negative_share,
                SHARES,
                title="batches in conflict",
                caption="Share of batches in which the tasks' gradients have a negative cosine, by layer and step; of "
                "gradients that have nothing to do with each other it is half.",
            )
        )
    return pictures


def _lines(study: GradientStudy) -> Picture:
    kinds = [kind for kind in KINDS if any(kind in run.checkpoints[0].kinds for run in study.runs)]
    names = [SHARED, *kinds]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)

    def draw(figure: Figure) -> None:
        panels = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=True)).flatten()
        for axes, name in zip(panels, names, strict=False):
            for run, color in zip(study.runs, SERIES * len(study.runs), strict=False):
                if found := _of_kind(run, name):
                    _line(axes, found, color, run.run)
            axes.axhline(0, linewidth=0.8, color="#8a94a3")
            axes.set_title(TITLES.get(name, name), loc="left")
            axes.margins(x=0.03)
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(names) - columns) : len(names)]:
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
            axes.tick_params(labelbottom=True)
        panels[0].legend(fontsize=8)

    told = "; ".join(
        f"{run.run}: {run.checkpoints[0].shared.cosine:.2f} at step {run.checkpoints[0].step}, "
        f"{run.checkpoints[-1].shared.cosine:.2f} at step {run.checkpoints[-1].step}"
        for run in study.runs
    )
    return draw_picture(
        draw,
        size=(3.2 * columns, 2.5 * rows + 0.2),
        alt=f"Line charts of the cosine between the tasks' gradients over steps. All shared weights: {told}.",
        caption="Cosine between the gradients of the images' and the clips' loss: mean and two "
        "standard errors over the batches. Dashed: geometric mean of the cosines of two "
        "batches of one task (0 where one is negative), all that the noise of batches leaves to be reached.",
    )


def _of_kind(run: RunGradients, name: str) -> list[tuple[int, Agreement]]:
    """Steps and agreements of one panel."""
    if name == SHARED:
        return [(item.step, item.shared) for item in run.checkpoints]
    return [(item.step, item.kinds[name]) for item in run.checkpoints if name in item.kinds]


def _line(axes: Axes, found: Sequence[tuple[int, Agreement]], color: str, label: str) -> None:
    steps = np.array([step for step, _ in found])
    mean = np.array([item.cosine for _, item in found])
    spread = np.nan_to_num([2 * item.deviation / math.sqrt(max(1, item.batches)) for _, item in found])
    axes.plot(steps, mean, color=color, marker="o", markersize=3.5, label=label)
    axes.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.18, linewidth=0)
    ceiling = [math.sqrt(item.images * item.clips) if item.images > 0 and item.clips > 0 else 0 for _, item in found]
    axes.plot(steps, ceiling, color=color, linestyle="--", linewidth=1)


def _by_layer(
    runs: Sequence[RunGradients], value: Callable[[Agreement], float], scale: Scale, *, title: str, caption: str
) -> Picture:
    """One table of layers and steps for each run."""
    grids, told = [], []
    for run in runs:
        chosen = spread_out(run.checkpoints)
        names = list(run.checkpoints[0].layers)
        values = np.array([[value(item.layers[name]) for item in chosen] for name in names])
        steps = [str(item.step) for item in chosen]
        grids.append(
            Grid(values=values, rows=names, columns=steps, title=f"{run.run}: {title}", down="", across="step")
        )
        last = ", ".join(f"{name} {number:.2f}" for name, number in zip(names, values[:, -1], strict=True))
        told.append(f"{run.run} at step {steps[-1]}: {last}")
    return heat_maps(grids, scale, alt=f"Heat maps of the {title} over steps. {'; '.join(told)}.", caption=caption)


def spread_out(checkpoints: Sequence[CheckpointGradients]) -> list[CheckpointGradients]:
    """At most MOST_COLUMNS of them, evenly spread, the first and the last among them."""
    places = np.linspace(0, len(checkpoints) - 1, min(len(checkpoints), MOST_COLUMNS)).round().astype(int)
    return [checkpoints[place] for place in places]
