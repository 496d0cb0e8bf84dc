"""Pictures of part (e): tables of mean predictions, their entries against each other, clips one by one."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from s4d.analysis.correlation.heat_map import SHARES, Grid, heat_maps
from s4d.analysis.correlation.labels import Difficulty, MatrixCorrelation, SampleCorrelation
from s4d.analysis.correlation.study import LabelStudy
from s4d.analysis.picture import SERIES, Picture, draw_picture

SHOWN = {"images": "images", "frames": "frames of the clips"}


def label_pictures(study: LabelStudy) -> list[Picture]:
    """Tables and their entries for both things the static head was shown, then clips."""
    pictures = []
    for name, table in study.tables.items():
        pictures += [_tables(table, SHOWN[name]), _entries(table, SHOWN[name])]
    return [*pictures, _clips(study.samples["pearson"]), _difficulty(study.difficulty)]


def written(value: float | None) -> str:
    """A correlation, or a dash where it is not defined."""
    return "-" if value is None else f"{value:+.2f}"


def _tables(table: MatrixCorrelation, shown: str) -> Picture:
    titles = (f"static head, {shown}", "dynamic head, clips")
    grids = [
        Grid(
            values=values, rows=table.classes, columns=table.classes, title=title, down="true class", across="predicted"
        )
        for title, values in zip(titles, (table.static, table.dynamic), strict=True)
    ]
    return heat_maps(
        grids,
        SHARES,
        alt=f"Mean predicted distributions by true class, {titles[0]} and {titles[1]}.",
        caption="Mean predicted distribution of each true class; each row sums to 100 %.",
    )


def _entries(table: MatrixCorrelation, shown: str) -> Picture:
    beside = ~np.eye(len(table.classes), dtype=np.bool_)
    static, dynamic = table.static[beside], table.dynamic[beside]
    top = 1.08 * float(max(static.max(), dynamic.max()))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot((0, top), (0, top), color="#888888", linestyle=":", linewidth=1.2)
        axes.scatter(static, dynamic, s=20, color=SERIES[0], alpha=0.8, linewidths=0)
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        axes.set_xlabel(f"static head, {shown}")
        axes.set_ylabel("dynamic head, clips")
        axes.grid()
        axes.set_title(f"Confusions: r = {written(table.beside['pearson'])}", loc="left")

    return draw_picture(
        draw,
        size=(4.8, 4.0),
        alt=f"Scatter of mean predicted probabilities of wrong classes; Pearson {written(table.beside['pearson'])}, "
        f"Spearman {written(table.beside['spearman'])}.",
        caption="Mean probability of a wrong class, one point for each pair of classes. Strongest for both: "
        f"{_strongest(table)}.",
    )


def _strongest(table: MatrixCorrelation) -> str:
    """The three wrong classes that the less sure of the two heads gives most to."""
    common = np.where(np.eye(len(table.classes), dtype=np.bool_), -1.0, np.minimum(table.static, table.dynamic))
    places = [divmod(int(place), len(table.classes)) for place in np.argsort(-common, axis=None, kind="stable")[:3]]
    return ", ".join(f"{table.classes[true]} as {table.classes[said]}" for true, said in places)


def _clips(found: SampleCorrelation) -> Picture:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.hist(found.values, bins=np.linspace(-1, 1, 41).tolist(), color=SERIES[0], alpha=0.75)
        marks = (
            ("the same clip", None if found.mean is None else found.mean.value, "-"),
            ("another clip of the class", found.same_class, "--"),
            ("any other clip", found.any_class, ":"),
        )
        for index, (name, value, dashes) in enumerate(marks, start=1):
            if value is not None:
                axes.axvline(value, color=SERIES[index], linestyle=dashes, label=f"mean, {name}: {value:+.2f}")
        axes.set_xlim(-1, 1)
        axes.set_xlabel("Pearson correlation of the two heads' distributions")
        axes.set_ylabel("clips")
        axes.set_title("Clip by clip", loc="left")
        figure.legend(loc="outside lower center", fontsize=8)

    mean = "-" if found.mean is None else f"{found.mean.value:+.2f}"
    return draw_picture(
        draw,
        size=(4.8, 3.7),
        alt=f"Histogram of the correlation of both heads' distributions over classes, clip by clip; mean {mean}, with "
        f"another clip of the class {written(found.same_class)}, with any other {written(found.any_class)}.",
        caption="Static head on the frames against dynamic head on the clip; lines: means of right and wrong pairs.",
    )


def _difficulty(found: Difficulty) -> Picture:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.scatter(found.static, found.dynamic, s=8, alpha=0.5, color=SERIES[0], linewidths=0)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("static head on frames")
        axes.set_ylabel("dynamic head on the clip")
        axes.grid()
        axes.set_title(f"Probability of the true class: r = {written(found.over_clips['pearson'])}", loc="left")

    return draw_picture(
        draw,
        size=(4.8, 4.0),
        alt=f"Scatter of the true class's probability for both heads; Pearson {written(found.over_clips['pearson'])}, "
        f"within classes {written(found.within['pearson'])}.",
        caption="One point for each clip: how much probability either head gives to its true class.",
    )
