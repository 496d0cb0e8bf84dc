"""Pictures of the experiment: test UAR over the steps of every arm, and over the share of the stills."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s4d.analysis.picture import SERIES, Picture, draw_picture
from s4d.science.arms import DYNAMIC, STATIC, arm_named
from s4d.science.table import Result, arms_in

SET_TITLES = {DYNAMIC: "clips (DFER)", STATIC: "stills (SFER)"}
CHANCE = 1 / 7


def learning_curves(results: Sequence[Result]) -> Picture:
    """Test UAR of both heads over the steps: strong the mean over the seeds of an arm, pale each seed."""
    arms = arms_in(results, "claim")

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, source in zip(panels, SET_TITLES, strict=True):
            for index, arm in enumerate(arms):
                _arm(axes, [_curve(result, source) for result in results if result.arm == arm], arm, index)
            axes.axhline(CHANCE, color="#888888", linestyle=":", linewidth=1)
            axes.set_title(SET_TITLES[source], loc="left")
            axes.set_xlabel("step")
            axes.grid(axis="y")
        panels[0].set_ylabel("UAR on the test split")
        drawn = {
            label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        titles = [title for arm in arms if (title := arm_named(arm).title) in drawn]
        if titles:
            figure.legend([drawn[title] for title in titles], titles, loc="outside right upper", fontsize=8)

    ends = "; ".join(f"{arm}: {_ends(results, arm)}" for arm in arms)
    return draw_picture(
        draw,
        size=(8.6, 3.8),
        alt=f"Line charts of test UAR over training steps, clips left, stills right. At the end: {ends}.",
        caption="Test UAR over the steps of each arm. Strong: mean over seeds; pale: each seed; dotted: chance.",
    )


def scaling_picture(results: Sequence[Result]) -> Picture:
    """UAR of both heads against the share of the stills."""
    points = [(arm_named(name).stills, name) for name in arms_in(results, "scaling")]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, source in enumerate(SET_TITLES):
            shares, means = [], []
            for share, arm in points:
                values = _values(results, arm, source)
                axes.plot([100 * share] * len(values), values, "o", color=SERIES[index], alpha=0.4, markersize=4)
                if values:
                    shares.append(100 * share)
                    means.append(statistics.mean(values))
            axes.plot(shares, means, color=SERIES[index], label=SET_TITLES[source])
        axes.set_xlabel("share of the labelled stills, %")
        axes.set_ylabel("UAR on the test split")
        axes.set_title("UAR against the amount of SFER data", loc="left")
        axes.grid(axis="y")
        axes.legend()

    told = "; ".join(f"{100 * share:g} %: {_ends(results, arm)}" for share, arm in points)
    return draw_picture(
        draw,
        size=(4.8, 3.4),
        alt=f"Line chart of UAR against the share of the stills. {told}.",
        caption="UAR against the share of the labelled stills. Points: seeds; lines: their mean.",
    )


def _curve(result: Result, source: str) -> list[tuple[float, float]]:
    key = f"{source}.uar"
    return [(point["step"], point[key]) for point in result.document["curve"] if key in point]


def _arm(axes: Axes, curves: Sequence[Sequence[tuple[float, float]]], arm: str, index: int) -> None:
    curves = [curve for curve in curves if curve]
    if not curves:
        return
    color = SERIES[index % len(SERIES)]
    if len(curves) > 1:
        for curve in curves:
            axes.plot(*zip(*curve, strict=True), color=color, alpha=0.25, linewidth=0.9)
    means = [statistics.mean(point[1] for point in points) for points in zip(*curves, strict=True)]
    steps = [step for step, _ in curves[0]]
    axes.plot(steps, means, color=color, marker="o", markersize=3, label=arm_named(arm).title)


def _values(results: Sequence[Result], arm: str, source: str) -> list[float]:
    found = [result.score(source, "uar") for result in results if result.arm == arm]
    return [value for value in found if value is not None]


def _ends(results: Sequence[Result], arm: str) -> str:
    told = []
    for source, title in SET_TITLES.items():
        values = _values(results, arm, source)
        if values:
            told.append(f"{title} {statistics.mean(values):.3f}")
    return ", ".join(told)
