"""Confusion matrices and per-class recall of one head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from s4d.analysis.cells import write_cells
from s4d.analysis.picture import SERIES, Picture, draw_picture


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadScores:
    """Scores of one head: rows of `confusion` are true classes, columns predicted ones; `numbers` as evaluated.

    `frame_uar` is the UAR with one frame held for the whole clip, by the frame's place; empty if not evaluated.
    """

    source: str
    modality: str
    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    numbers: dict[str, float | int]
    frame_uar: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.confusion.shape != (len(self.classes),) * 2:
            raise ValueError(f"{self.source}: {len(self.classes)} classes, confusion of shape {self.confusion.shape}")

    @property
    def recalls(self) -> list[float | None]:
        """Share of each true class that was recognised; None for a class without samples."""
        support = self.confusion.sum(axis=1)
        return [float(self.confusion[i, i] / n) if n else None for i, n in enumerate(support)]


def score_pictures(scores: HeadScores) -> list[Picture]:
    """Row shares, counts, recall bars and, for clips, what single frames reach."""
    support = scores.confusion.sum(axis=1, keepdims=True)
    shares = np.where(support > 0, scores.confusion / np.maximum(support, 1), np.nan)
    title = f"{scores.source} ({scores.modality})"
    worst = _most_confused(scores)
    frames = [_frame_picture(scores, title)] if scores.frame_uar else []
    return [
        _matrix_picture(
            shares,
            scores.classes,
            title=f"{title}: share of the true class",
            alt=f"Confusion matrix of {title}, each row divided by its sum. {worst}",
            caption="Rows: true class; columns: predicted; each row sums to 100 %.",
            number="{:.0%}",
        ),
        _matrix_picture(
            scores.confusion.astype(float),
            scores.classes,
            title=f"{title}: samples",
            alt=f"Confusion matrix of {title} as counts of {int(scores.confusion.sum())} samples.",
            caption="Rows: true class; columns: predicted; number of samples.",
            number="{:.0f}",
        ),
        _recall_picture(scores, title),
        *frames,
    ]


def _most_confused(scores: HeadScores) -> str:
    off_diagonal = scores.confusion * (1 - np.eye(len(scores.classes), dtype=np.int64))
    if not off_diagonal.any():
        return "Nothing is confused."
    true, predicted = np.unravel_index(int(off_diagonal.argmax()), off_diagonal.shape)
    count = int(off_diagonal[true, predicted])
    return f"Most often confused: {scores.classes[true]} taken for {scores.classes[predicted]}, {count} times."


def _matrix_picture(
    values: NDArray[np.float64], classes: Sequence[str], *, title: str, alt: str, caption: str, number: str
) -> Picture:
    top = float(np.nanmax(values)) if np.isfinite(values).any() and np.nanmax(values) > 0 else 1.0

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        write_cells(axes, values, number=number, limits=(0, top))
        axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), classes)
        axes.set_aspect("equal")
        axes.set_title(title, loc="left", x=-0.25)

    side = max(3.6, 0.42 * len(classes) + 1.3)
    return draw_picture(draw, size=(max(4.8, side + 0.4), side), alt=alt, caption=caption)


def _recall_picture(scores: HeadScores, title: str) -> Picture:
    recalls = scores.recalls
    support = scores.confusion.sum(axis=1)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        positions = range(len(recalls))
        axes.barh(positions, [recall or 0.0 for recall in recalls], color=SERIES[0], height=0.62)
        for position, recall in zip(positions, recalls, strict=True):
            axes.text((recall or 0.0) + 0.015, position, "none" if recall is None else f"{recall:.0%}", va="center")
        axes.axvline(1 / len(recalls), color=SERIES[1], linestyle="--", linewidth=1.2)
        axes.set_yticks(positions, [f"{name} ({count})" for name, count in zip(scores.classes, support, strict=True)])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        axes.tick_params(axis="y", length=0)
        axes.set_title(f"{title}: recall by class", loc="left")

    listed = ", ".join(
        f"{n} {'none' if r is None else f'{r:.0%}'}" for n, r in zip(scores.classes, recalls, strict=True)
    )
    return draw_picture(
        draw,
        size=(4.8, 0.32 * len(recalls) + 1.0),
        alt=f"Bar chart of the recall of each class of {title}: {listed}.",
        caption="Recall of each class, with its number of test samples; dashed: chance.",
    )


def _frame_picture(scores: HeadScores, title: str) -> Picture:
    places = range(1, len(scores.frame_uar) + 1)
    whole = scores.numbers.get("uar")

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(places, scores.frame_uar, color=SERIES[1], marker="o", markersize=4, label="one frame, held")
        if whole is not None:
            axes.axhline(whole, color=SERIES[0], label="whole clip")
        axes.set_ylim(0, max([*scores.frame_uar, whole or 0.0]) * 1.15 or 1)
        axes.set_xlabel("place of the frame in the clip")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("UAR")
        axes.set_title(f"{title}: clip against single frames", loc="left")
        axes.grid(axis="y")
        axes.legend(loc="lower right")

    reached = f"{min(scores.frame_uar):.0%} to {max(scores.frame_uar):.0%}"
    against = "" if whole is None else f"; the whole clip {whole:.0%}"
    return draw_picture(
        draw,
        size=(4.8, 3.0),
        alt=f"Line chart of the UAR of {title} with one frame held, by its place: {reached}{against}.",
        caption="UAR of the same model when it sees one frame, held for the whole clip, by the frame's place.",
    )
