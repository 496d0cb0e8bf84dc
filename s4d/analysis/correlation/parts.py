"""The parts of the page that come from forwards alone, and data scaling: method, tables and pictures of each."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from s4d.analysis.correlation.label_pictures import label_pictures, written
from s4d.analysis.correlation.labels import KINDS
from s4d.analysis.correlation.page import Part, Table
from s4d.analysis.correlation.representation_pictures import representation_pictures
from s4d.analysis.correlation.study import LabelStudy, RepresentationStudy, TransferStudy
from s4d.analysis.correlation.transfer import Transfer
from s4d.analysis.correlation.transfer_pictures import transfer_pictures, way
from s4d.errors import DataError
from s4d.statistics import Interval

TRANSFER = (
    "Each head is shown the other task's test data. The static head sees evenly spread frames of every clip as still "
    "images; its prediction is the mean of the frames' probabilities, or that of its surest frame. The dynamic head "
    "sees every image held for the length of a clip. Samples of classes that only one head has are left out, and "
    "probabilities are scaled to sum to 1 on the shared classes, on own media as on foreign. Intervals are 95 % "
    "bootstrap intervals over samples; the gap is paired, on the same samples. Retained is (UAR of the other head - "
    "chance) / (UAR of the own head - chance). The last column is the probability on classes that are not shared."
)
REPRESENTATION = (
    "Class centroids are means of the pooled features of the test images and clips of each shared class, each "
    "modality centred on the mean of its own centroids. Contrast is the mean cosine of a class with itself across "
    "modalities less that with other classes; p is the share of orders of the classes that give as much. Linear CKA "
    "compares features, averaged over a sample's tokens after each block, of the same samples: a clip as a clip "
    "against its middle frame, or the mean over its frames, as an image; an image against the same image held for a "
    "clip; and one model against another on the same input. Where images and clips are different samples they are "
    "paired at random within their class, equally many of both, against pairs of any class. The estimate is the "
    "debiased one, which is about 0 for unrelated features however few the samples; the standard one is in the numbers."
)
LABELS = (
    "Do both tasks confuse the same classes? The mean predicted distribution of each true class is taken for both "
    "heads; Pearson and Spearman correlations run over all entries of the two tables, and over those off the diagonal "
    "alone, where p is the share of orders of the classes (rows and columns together) that give as much. Clip by clip, "
    "the static head's distribution on the frames is correlated with the dynamic head's over the shared classes, and "
    "set against the same with another clip's dynamic distribution, of the same class or of any. Difficulty correlates "
    "the two probabilities of the true class over clips, and with each class's mean taken off."
)
SCALING = (
    "Arms of the experiment that differ in the share of the labelled stills alone, at the same budget: test UAR of "
    "both heads against that share, each seed and the mean over seeds."
)


def transfer_part(study: TransferStudy) -> Part:
    """Part (a)."""
    scores = Table(
        columns=("head and media", "run", "samples", "UAR", "95 %", "WAR", "95 %", "not shared"),
        rows=tuple(
            (
                way(verdict),
                verdict.run,
                str(len(verdict.labels)),
                *_with_interval(verdict.intervals.uar),
                *_with_interval(verdict.intervals.war),
                f"{verdict.elsewhere:.1%}",
            )
            for verdict in study.verdicts
        ),
    )
    tasks = Table(
        columns=("task", "own head gains (UAR)", "95 %", "retained by the other head", "both say the same"),
        rows=tuple(
            (task.task, *_points(task.gap.uar), _retained(task), f"{task.agreement:.1%}") for task in study.tasks
        ),
    )
    clips, images = study.tasks
    return Part(
        key="transfer",
        title="(a) Cross-task transfer",
        method=TRANSFER,
        numbers=study.to_dict(),
        headline={
            "UAR of the static head on frames of clips": f"{clips.others[0].scores.uar:.1%}",
            "UAR of the dynamic head on clips": f"{clips.own.scores.uar:.1%}",
            "UAR of the dynamic head on stilled images": f"{images.others[0].scores.uar:.1%}",
            "UAR of the static head on images": f"{images.own.scores.uar:.1%}",
        },
        tables=(scores, tasks),
        pictures=tuple(transfer_pictures(study)),
    )


def representation_part(study: RepresentationStudy) -> Part:
    """Part (b)."""
    tables, headline = [], {}
    if study.centroids is not None:
        found = study.centroids.pooled
        headline["centroid contrast of images and clips"] = f"{found.contrast:+.2f}"
        row = (f"{found.diagonal:+.3f}", f"{found.off_diagonal:+.3f}", f"{found.contrast:+.3f}", f"{found.p_value:.3g}")
        tables.append(
            Table(
                columns=("centroids", "same class", "different classes", "contrast", "p"),
                rows=(("images against clips", *row),),
            )
        )
    comparisons = (*study.modalities, *study.runs)
    blocks = max(len(item.cka.by_layer) for item in comparisons)
    rows = [(f"{item.first} / {item.second}", item.cka.samples, item.cka.by_layer.tolist()) for item in comparisons]
    if study.matched is not None:
        rows.append(("images / clips of the same class", study.matched.samples, list(study.matched.same_class)))
        rows.append(("images / clips of any class", study.matched.samples, list(study.matched.any_class)))
    tables.append(
        Table(
            columns=("CKA (debiased) after block", "samples", *(str(block) for block in range(blocks))),
            rows=tuple(
                (name, str(count), *(f"{value:.2f}" for value in values), *[""] * (blocks - len(values)))
                for name, count, values in rows
            ),
        )
    )
    return Part(
        key="representation",
        title="(b) Representation",
        method=REPRESENTATION,
        numbers=study.to_dict(),
        headline=headline,
        tables=tuple(tables),
        pictures=tuple(representation_pictures(study)),
    )


def label_part(study: LabelStudy) -> Part:
    """Part (e)."""
    tables = Table(
        columns=(
            "against clips",
            *(f"{kind}, {of}" for of in ("all", "confusions") for kind in KINDS),
            *(f"p ({kind})" for kind in KINDS),
        ),
        rows=tuple(
            (
                f"static head on {name}",
                *(written(table.entries[kind]) for kind in KINDS),
                *(written(table.beside[kind]) for kind in KINDS),
                *("-" if (p := table.p_value[kind]) is None else f"{p:.2g}" for kind in KINDS),
            )
            for name, table in study.tables.items()
        ),
    )
    clips = Table(
        columns=("clip by clip", "mean", "95 %", "another clip of the class", "any other clip", "flat, left out"),
        rows=tuple(
            (
                kind,
                *(
                    ("-", "-")
                    if found.mean is None
                    else (f"{found.mean.value:+.3f}", f"{found.mean.low:+.3f} to {found.mean.high:+.3f}")
                ),
                written(found.same_class),
                written(found.any_class),
                str(found.flat),
            )
            for kind, found in study.samples.items()
        ),
    )
    difficulty = Table(
        columns=("probability of the true class", *KINDS),
        rows=(
            ("over clips", *(written(study.difficulty.over_clips[kind]) for kind in KINDS)),
            ("within classes", *(written(study.difficulty.within[kind]) for kind in KINDS)),
        ),
    )
    return Part(
        key="labels",
        title="(e) Labels",
        method=LABELS,
        numbers=study.to_dict(),
        headline={"correlation of the two heads' confusions": written(study.tables["images"].beside["pearson"])},
        tables=(tables, clips, difficulty),
        pictures=tuple(label_pictures(study)),
    )


def scaling_part(folder: Path) -> Part:
    """Part (f), from a folder of results of the experiment; DataError if it has none of the scaling."""
    from s4d.science.arms import arm_named
    from s4d.science.curves import SET_TITLES, scaling_picture
    from s4d.science.table import arms_in, read_results

    results = read_results(folder)
    points = []
    for name in arms_in(results, "scaling"):
        own = [result for result in results if result.arm == name]
        uar = {
            source: [value for result in own if (value := result.score(source, "uar")) is not None]
            for source in SET_TITLES
        }
        points.append((arm_named(name).stills, name, [result.seed for result in own], uar))
    if not points:
        raise DataError(f"{folder}: holds no result of the arms with a share of the stills")
    numbers = [
        {
            "share_of_stills": share,
            "arm": arm,
            "seeds": seeds,
            "uar": {
                source: {"mean": statistics.mean(values) if values else None, "values": values}
                for source, values in uar.items()
            },
        }
        for share, arm, seeds, uar in points
    ]
    rows = tuple(
        (f"{share:.1%} ({name})", *(_spread(values) for values in uar.values())) for share, name, _, uar in points
    )
    return Part(
        key="scaling",
        title="(f) Data scaling",
        method=SCALING,
        numbers={"points": numbers},
        headline={},
        tables=(Table(columns=("share of the stills", *SET_TITLES.values()), rows=rows),),
        pictures=(scaling_picture(results),),
    )


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.mean(values):.1%} ({', '.join(f'{value:.1%}' for value in values)})"


def _with_interval(found: Interval) -> tuple[str, str]:
    return f"{found.value:.1%}", f"{found.low:.1%} to {found.high:.1%}"


def _points(found: Interval) -> tuple[str, str]:
    return f"{100 * found.value:+.1f} points", f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"


def _retained(task: Transfer) -> str:
    return "-" if task.retained is None else f"{task.retained:.1%}"
