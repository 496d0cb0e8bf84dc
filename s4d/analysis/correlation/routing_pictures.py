"""Routing of images and clips: how far apart, who uses which expert, and which experts are chosen together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s4d.analysis.correlation.heat_map import SHARES, Grid, Scale, heat_maps
from s4d.analysis.correlation.routing import LayerRouting, RoutingStudy, RunRouting
from s4d.analysis.correlation.routing_numbers import Tested
from s4d.analysis.picture import SERIES, Picture, draw_picture

LIFTS = Scale(low=0.0, high=2.0, colours="RdBu_r", number="{:.2f}")
# Distances that are all smaller are not drawn as if they were large.
LEAST_SCALE = 0.1
SIDES = {"image": "images", "video": "clips"}


def routing_pictures(study: RoutingStudy) -> list[Picture]:
    """For each run: distances by layer, usage, distances by class, and lifts in the first and the last layer."""
    return [picture for run in study.runs for picture in run_pictures(run)]


def run_pictures(run: RunRouting) -> list[Picture]:
    """The pictures of one run; those that compare images with clips only where it has both."""
    both = all(layer.distance is not None for layer in run.layers)
    return [
        *([_distances(run)] if both else []),
        _usage(run),
        *([_by_class(run)] if run.class_distance else []),
        *(_lifts(run, layer) for layer in (run.layers[0], run.layers[-1])[: len(run.layers)] if run.top_k > 1),
    ]


def _distances(run: RunRouting) -> Picture:
    blocks = [layer.layer for layer in run.layers]
    plain = [layer.distance for layer in run.layers if layer.distance is not None]
    matched = [layer.class_matched for layer in run.layers if layer.class_matched is not None]

    def draw(figure: Figure) -> None:
        left, middle, right = figure.subplots(1, 3)
        _tested(left, blocks, plain, SERIES[0], "all samples", shift=-0.08)
        if matched:
            _tested(left, blocks, matched, SERIES[1], "classes matched", shift=0.08)
        left.set_title("Jensen-Shannon distance", loc="left")
        middle.plot(blocks, [layer.overlap for layer in run.layers], color=SERIES[2], marker="o")
        middle.set_title("overlap of usage", loc="left")
        for source, color in zip(run.sources, SERIES, strict=False):
            told = [item.adjusted for item in source.information]
            right.plot(blocks, told, color=color, marker="o", label=source.source)
        right.set_title("class told by the expert", loc="left")
        left.set_ylim(0, min(1.03, 1.15 * max(LEAST_SCALE, *(max(item.high, item.by_chance) for item in plain))))
        middle.set_ylim(0, 1.03)
        right.set_ylim(bottom=min(0.0, right.get_ylim()[0]))
        for axes in (left, middle, right):
            axes.set_xticks(blocks)
            axes.set_xlabel("block")
            axes.grid(axis="y")
            axes.margins(x=0.12)
        left.legend(fontsize=8)
        right.legend(fontsize=8)

    told = "; ".join(
        f"block {block} {item.value:.2f} (chance {item.by_chance:.2f})"
        for block, item in zip(blocks, plain, strict=True)
    )
    return draw_picture(
        draw,
        size=(9.6, 2.9),
        alt=f"{run.run}: charts by block. Jensen-Shannon distance between the routing of images and clips: {told}.",
        caption=f"{run.run}: how far the routing of images is from that of clips (0 the same, 1 no expert in common) "
        "with 95 % bootstrap intervals; crosses: what 95 % of random exchanges of samples stay below. Overlap is the "
        "sum of each expert's smaller share. Right: mutual information of class and chosen expert, adjusted for "
        "chance (0 nothing, 1 all).",
    )


def _tested(
    axes: Axes, blocks: Sequence[int], found: Sequence[Tested], color: str, label: str, *, shift: float
) -> None:
    places = np.array(blocks) + shift
    values = np.array([item.value for item in found])
    # The basic bootstrap's bounds are corrected for bias and can both lie on one side of the value.
    reach = np.clip([values - [item.low for item in found], [item.high for item in found] - values], 0, None)
    axes.errorbar(places, values, yerr=reach, color=color, marker="o", capsize=3, linewidth=1.2, label=label)
    axes.plot(places, [item.by_chance for item in found], color=color, marker="x", linestyle="none", alpha=0.8)


def _usage(run: RunRouting) -> Picture:
    experts = [str(expert) for expert in range(run.num_experts)]
    blocks = [f"block {layer.layer}" for layer in run.layers]
    grids = [
        Grid(
            values=np.array([layer.usage[name] for layer in run.layers]),
            rows=blocks,
            columns=experts,
            title=f"usage by {SIDES[name]}",
            down="",
            across="expert",
        )
        for name in run.layers[0].usage
    ]
    top = max(float(grid.values.max()) for grid in grids)
    dead = [f"expert {expert} of block {layer.layer}" for layer in run.layers for expert in layer.dead]
    idle = f" Dead: {', '.join(dead)}." if dead else " No expert is dead."
    return heat_maps(
        grids,
        Scale(low=0.0, high=top, colours=SHARES.colours, number=SHARES.number),
        alt=f"{run.run}: heat maps of the share of choices that falls on each expert in each block.{idle}",
        caption=f"{run.run}: share of the tokens' choices by expert; even is {1 / run.num_experts:.0%}.{idle}",
    )


def _by_class(run: RunRouting) -> Picture:
    names = list(run.class_distance)
    values = np.array([[item.value for item in run.class_distance[name]] for name in names])
    blocks = [f"block {layer.layer}" for layer in run.layers]
    chance = np.mean([[item.by_chance for item in run.class_distance[name]] for name in names])
    farthest = names[int(values.mean(1).argmax())]
    grid = Grid(values=values, rows=names, columns=blocks, title="distance by class", down="", across="")
    return heat_maps(
        [grid],
        Scale(low=0.0, high=max(LEAST_SCALE, float(values.max())), colours=None, number="{:.2f}"),
        alt=f"{run.run}: heat map of the routing distance between images and clips of one class; largest: {farthest}.",
        caption=f"{run.run}: Jensen-Shannon distance between the routing of images and clips of the same class; by "
        f"chance it stays below {chance:.2f} (mean over cells of the 95th percentile).",
    )


def _lifts(run: RunRouting, layer: LayerRouting) -> Picture:
    experts = [str(expert) for expert in range(run.num_experts)]
    grids = [
        Grid(values=values, rows=experts, columns=experts, title=SIDES[name], down="expert", across="expert")
        for name, values in layer.lift.items()
    ]
    told = [(float(np.nanmax(grid.values)), grid.title) for grid in grids if np.isfinite(grid.values).any()]
    strongest = "; largest {:.2f} for {}".format(*max(told)) if told else ""
    return heat_maps(
        grids,
        LIFTS,
        alt=f"{run.run}: heat maps of the lift of pairs of experts in block {layer.layer}{strongest}.",
        caption=f"{run.run}, block {layer.layer}: how often a token chooses two experts together, relative to "
        "independent choices without repetition (1).",
    )
