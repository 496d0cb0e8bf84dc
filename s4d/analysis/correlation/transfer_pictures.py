"""Pictures of part (a): scores of every head on both kinds of media, confusions, and frames one by one."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from s4d.analysis.correlation.heat_map import SHARES, Grid, heat_maps, row_shares
from s4d.analysis.correlation.study import TransferStudy
from s4d.analysis.correlation.transfer import Transfer, Verdict
from s4d.analysis.picture import SERIES, Picture, draw_picture

WAYS = {
    ("images", "mean"): "static head, images",
    ("frames", "mean"): "static head, frames of clips",
    ("frames", "most confident"): "static head, surest frame",
    ("clips", "mean"): "dynamic head, clips",
    ("stilled", "mean"): "dynamic head, stilled images",
}
OWN = ("images", "clips")


def transfer_pictures(study: TransferStudy) -> list[Picture]:
    """UAR of every head, confusions of both tasks, UAR by the place of a frame."""
    return [_scores(study.verdicts), *(_confusions(task) for task in study.tasks), _by_frame(study)]


def way(verdict: Verdict) -> str:
    """Which head saw what."""
    return WAYS[verdict.showing, verdict.chosen]


def _scores(verdicts: Sequence[Verdict]) -> Picture:
    runs = list(dict.fromkeys(verdict.run for verdict in verdicts))
    ordered = sorted(verdicts, key=lambda verdict: list(WAYS).index((verdict.showing, verdict.chosen)))
    names = [way(verdict) if len(runs) == 1 else f"{way(verdict)}: {verdict.run}" for verdict in ordered]
    chance = 1 / len(verdicts[0].scores.classes)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, verdict in enumerate(ordered):
            found = verdict.intervals.uar
            color = SERIES[0 if verdict.showing in OWN else 1]
            axes.plot((found.low, found.high), (place, place), color=color, linewidth=2.4, alpha=0.5)
            axes.plot(found.value, place, "o", color=color, markersize=6)
            axes.annotate(f"{found.value:.1%}", (found.value, place), (0, 7), textcoords="offset points", ha="center")
        axes.axvline(chance, color="#888888", linestyle=":", linewidth=1.2)
        axes.set_yticks(range(len(ordered)), names)
        axes.set_ylim(len(ordered) - 0.5, -0.8)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xlabel("UAR over the shared classes")
        axes.grid(axis="x")
        axes.set_title("Heads on their own and on the other task's media", loc="left")

    listed = "; ".join(f"{name} {v.scores.uar:.1%}" for name, v in zip(names, ordered, strict=True))
    return draw_picture(
        draw,
        size=(7.4, 0.42 * len(ordered) + 1.2),
        alt=f"Points with intervals of UAR: {listed}.",
        caption="UAR with 95 % bootstrap intervals. Blue: own media; orange: the other task's; dotted: chance.",
    )


def _confusions(task: Transfer) -> Picture:
    shown = (task.own, task.others[0])
    grids = [
        Grid(
            values=row_shares(verdict.scores.confusion),
            rows=verdict.scores.classes,
            columns=verdict.scores.classes,
            title=f"{way(verdict)} ({verdict.scores.uar:.1%})",
            down="true class",
            across="predicted",
        )
        for verdict in shown
    ]
    told = " and ".join(f"{way(verdict)} with UAR {verdict.scores.uar:.1%}" for verdict in shown)
    return heat_maps(
        grids,
        SHARES,
        alt=f"Confusion matrices of {told}.",
        caption=f"The same {task.task} seen by both heads: share of each true class that is taken for each class.",
    )


def _by_frame(study: TransferStudy) -> Picture:
    clips = study.tasks[0]
    places = range(1, len(study.by_frame) + 1)
    values = [uar for uar, _ in study.by_frame]
    lines = ((way(clips.own), clips.own), *((way(other), other) for other in clips.others))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(places, values, color=SERIES[3], marker="o", markersize=4, label="static head, one frame")
        for index, (name, verdict) in enumerate(lines):
            axes.axhline(verdict.scores.uar, color=SERIES[index], linestyle="--" if index else "-", label=name)
        axes.axhline(1 / len(clips.own.scores.classes), color="#888888", linestyle=":", linewidth=1.2)
        axes.set_ylim(0, min(1.0, 1.45 * max(*values, *(verdict.scores.uar for _, verdict in lines))))
        axes.set_xlabel("place of the frame in the clip")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("UAR")
        axes.grid(axis="y")
        axes.legend(loc="upper left", fontsize=7.5)
        axes.set_title("Frame by frame", loc="left")

    return draw_picture(
        draw,
        size=(4.8, 3.4),
        alt=f"Line chart of the static head's UAR by the frame's place, {min(values):.1%} to {max(values):.1%}.",
        caption="The static head on single frames of clips, by place; lines: means over frames, the dynamic head.",
    )
