"""(a) Each head on the other task's media: the static head on frames of clips, the dynamic head on stilled images.

Scores are over the classes that both heads have: samples of other classes are left out, and a head's probabilities are
taken on the shared classes and scaled to sum to 1, on its own task as on the other. Letters: n samples, V views, K
classes of a head, S shared classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4d.analysis.correlation.classes import columns_of
from s4d.analysis.correlation.features import Observed
from s4d.errors import DataError
from s4d.metrics import Scores, scores
from s4d.statistics import ScoreIntervals, paired_bootstrap, score_intervals


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One head of one run on one showing; `chosen` says how its views became one prediction.

    `elsewhere` is the mean probability that the head gave to classes that are not shared. `predictions` (n,) are
    numbers of shared classes, `sample_ids` the samples they belong to.
    """

    run: str
    head: str
    showing: str
    chosen: str
    scores: Scores
    intervals: ScoreIntervals
    elsewhere: float
    sample_ids: tuple[str, ...]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "run": self.run,
            "head": self.head,
            "showing": self.showing,
            "chosen": self.chosen,
            **self.scores.to_dict(),
            "intervals": self.intervals.to_dict(self.scores.classes),
            "probability_on_classes_not_shared": self.elsewhere,
        }


def on_shared(probabilities: NDArray[np.float64], columns: Sequence[int]) -> NDArray[np.float64]:
    """Probabilities (..., K) on the shared classes alone, (..., S), each row scaled to sum to 1."""
    kept = probabilities[..., list(columns)]
    total = kept.sum(-1, keepdims=True)
    # A row that rounded to nothing on the shared classes says nothing about them.
    return np.where(total > 0, kept / np.where(total > 0, total, 1.0), 1.0 / len(columns))


def mean_of_views(views: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean (n, S) of the views' probabilities (n, V, S)."""
    return np.asarray(views.mean(1))


def most_confident_view(views: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probabilities (n, S) of each sample's view with the largest one: of frames, a guess at the apex."""
    return np.asarray(views[np.arange(len(views)), views.max(2).argmax(1)])


CHOICES = {"mean": mean_of_views, "most confident": most_confident_view}


def judge(
    observed: Observed, run: str, head: str, head_classes: Sequence[str], shared: Sequence[str], chosen: str = "mean"
) -> Verdict:
    """Score a head on a showing; DataError if no sample has a shared class."""
    rows = observed.rows(shared)
    if not rows.size:
        raise DataError(f"{observed.showing.source}: not one sample of the split has a class that both heads have")
    columns = columns_of(shared, head_classes, f"{run}: head {head}")
    views = observed.probabilities[head][rows]
    labels = observed.numbers(shared)[rows]
    predictions = CHOICES[chosen](on_shared(views, columns)).argmax(1)
    return Verdict(
        run=run,
        head=head,
        showing=observed.showing.name,
        chosen=chosen,
        scores=scores(labels, predictions, shared),
        intervals=score_intervals(labels, predictions, len(shared)),
        elsewhere=float(1 - views[..., columns].sum(-1).mean()),
        sample_ids=tuple(observed.sample_ids[row] for row in rows),
        labels=labels,
        predictions=predictions,
    )


def frame_scores_of(
    observed: Observed, head: str, head_classes: Sequence[str], shared: Sequence[str]
) -> tuple[tuple[float, float], ...]:
    """UAR and WAR of a head for each view by itself, such as each place of a frame in its clip."""
    rows = observed.rows(shared)
    views = on_shared(observed.probabilities[head][rows], columns_of(shared, head_classes, f"head {head}"))
    labels = observed.numbers(shared)[rows]
    found = [scores(labels, views[:, place].argmax(1), shared) for place in range(views.shape[1])]
    return tuple((item.uar, item.war) for item in found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """Both heads on one task's samples: the task's own head, and the other task's.

    `gap` is what the own head gains over the other on the same samples. `retained` is the share of the own head's UAR
    above chance that the other reaches; None where the own head is not above chance. `agreement` is the share of
    samples on which both say the same.
    """

    task: str
    own: Verdict
    others: tuple[Verdict, ...]
    gap: ScoreIntervals
    retained: float | None
    agreement: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "task": self.task,
            "own": self.own.to_dict(),
            "transferred": [verdict.to_dict() for verdict in self.others],
            "gap": self.gap.to_dict(self.own.scores.classes),
            "retained": self.retained,
            "agreement": self.agreement,
        }


def transfer(task: str, own: Verdict, others: Sequence[Verdict]) -> Transfer:
    """Compare a task's own head with the first of `others`, the other task's head, on the samples both could read."""
    other = others[0]
    place = {name: row for row, name in enumerate(other.sample_ids)}
    rows = np.array([row for row, name in enumerate(own.sample_ids) if name in place], dtype=np.int64)
    if not rows.size:
        raise DataError(f"{task}: not one sample could be read both as {own.showing} and as {other.showing}")
    across = np.array([place[own.sample_ids[row]] for row in rows], dtype=np.int64)
    chance = 1 / len(own.scores.classes)
    above = own.scores.uar - chance
    return Transfer(
        task=task,
        own=own,
        others=tuple(others),
        gap=paired_bootstrap(
            other.predictions[across], own.predictions[rows], own.labels[rows], classes=len(own.scores.classes)
        ),
        retained=(other.scores.uar - chance) / above if above > 0 else None,
        agreement=float(np.mean(own.predictions[rows] == other.predictions[across])),
    )
