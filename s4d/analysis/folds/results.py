"""The scores of one head over folds: each fold's own, their mean and sample standard deviation, and the pooled ones.

Letters: n samples, V views, K classes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s4d.analysis.predictions import Predictions, read_predictions
from s4d.errors import DataError
from s4d.metrics import Scores, scores
from s4d.statistics import ScoreIntervals, expected_calibration_error, score_intervals

# Weights of a run -> what the names of the files about them end with.
WEIGHTS = {"last": "", "ema": "-ema"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pooled:
    """The test samples of all folds as one set, which no fold shares with another."""

    predictions: Predictions
    scores: Scores
    intervals: ScoreIntervals
    calibration_error: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "samples": len(self.predictions.labels),
            **self.intervals.to_dict(self.scores.classes),
            "confusion": self.scores.confusion.tolist(),
            "expected_calibration_error": self.calibration_error,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a table: what it is of, how many samples, and shares of 1; None where there is no such number."""

    label: str
    samples: int | None
    recall: tuple[float | None, ...]
    uar: float | None
    war: float | None

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Plain values for JSON, recalls by class name."""
        return {"uar": self.uar, "war": self.war, "recall": dict(zip(classes, self.recall, strict=True))}


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldScores:
    """One source with one set of weights; without `pooled`, `not_pooled` says why: folds that share samples."""

    source: str
    modality: str
    weights: str
    classes: tuple[str, ...]
    by_fold: Mapping[int, Scores]
    pooled: Pooled | None
    not_pooled: str | None

    @property
    def mean(self) -> Row:
        """Mean of each number over the folds that have it."""
        return self._over_folds("mean", statistics.fmean, least=1)

    @property
    def deviation(self) -> Row:
        """Sample standard deviation (n - 1) of each number over the folds that have it, None for fewer than two."""
        return self._over_folds("standard deviation", statistics.stdev, least=2)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The whole table: folds, mean, standard deviation and, where there is one, the pooled line."""
        pooled = [] if self.pooled is None else [row_of("pooled", self.pooled.scores)]
        return (*self._fold_rows, self.mean, self.deviation, *pooled)

    @property
    def _fold_rows(self) -> tuple[Row, ...]:
        return tuple(row_of(str(fold), each) for fold, each in self.by_fold.items())

    def _over_folds(self, label: str, summary: Callable[[Sequence[float]], float], least: int) -> Row:
        def of(numbers: Iterable[float | None]) -> float | None:
            found = [number for number in numbers if number is not None]
            return summary(found) if len(found) >= least else None

        rows = self._fold_rows
        return Row(
            label=label,
            samples=None,
            recall=tuple(of(column) for column in zip(*(row.recall for row in rows), strict=True)),
            uar=of(row.uar for row in rows),
            war=of(row.war for row in rows),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        folds = [
            {"fold": fold, "samples": row.samples, **row.to_dict(self.classes), "confusion": each.confusion.tolist()}
            for (fold, each), row in zip(self.by_fold.items(), self._fold_rows, strict=True)
        ]
        return {
            "source": self.source,
            "modality": self.modality,
            "weights": self.weights,
            "classes": list(self.classes),
            "folds": folds,
            "mean": self.mean.to_dict(self.classes),
            "standard_deviation": self.deviation.to_dict(self.classes),
            "pooled": None if self.pooled is None else self.pooled.to_dict(),
            "not_pooled": self.not_pooled,
        }


def row_of(label: str, found: Scores) -> Row:
    """The line of one set of scores."""
    samples = int(found.confusion.sum())
    return Row(label=label, samples=samples, recall=found.recall, uar=found.uar, war=found.war)


def read_folds(runs: Mapping[int, Path]) -> list[FoldScores]:
    """Scores of every source and set of weights in the run folders by fold; DataError where the runs do not agree."""
    found = []
    for weights, suffix in WEIGHTS.items():
        files = {fold: path / f"predictions{suffix}.npz" for fold, path in runs.items()}
        present = [file for file in files.values() if file.is_file()]
        if not present:
            continue
        heads = {fold: read_predictions(file) for fold, file in files.items()}
        names = list(dict.fromkeys(name for each in heads.values() for name in each))
        for name in names:
            for fold, each in heads.items():
                if name not in each:
                    raise DataError(f"{files[fold]}: has no source {name!r}, which other folds have")
            found.append(gather({fold: each[name] for fold, each in heads.items()}, weights, files))
    return found


def gather(heads: Mapping[int, Predictions], weights: str, files: Mapping[int, Path]) -> FoldScores:
    """Scores of one source; `files` say where each fold's predictions come from."""
    first = next(iter(heads.values()))
    for fold, head in heads.items():
        where = f"{files[fold]}: {head.source}"
        if head.split != "test":
            raise DataError(f"{where}: split: expected 'test', got {head.split!r}")
        for field in ("modality", "classes"):
            if getattr(head, field) != getattr(first, field):
                raise DataError(f"{where}: {field}: {getattr(head, field)!r}, but {getattr(first, field)!r} elsewhere")
        if head.logits.shape[1] != first.logits.shape[1]:
            raise DataError(f"{where}: logits: {head.logits.shape[1]} views, but {first.logits.shape[1]} elsewhere")
    shared = _shared_sample(heads)
    return FoldScores(
        source=first.source,
        modality=first.modality,
        weights=weights,
        classes=first.classes,
        by_fold={fold: _scores(head) for fold, head in heads.items()},
        pooled=_pool(heads) if shared is None else None,
        not_pooled=shared,
    )


def _shared_sample(heads: Mapping[int, Predictions]) -> str | None:
    """Names the first test sample that two folds have in common."""
    seen: dict[str, int] = {}
    for fold, head in heads.items():
        for sample in head.sample_ids:
            if sample in seen:
                return f"folds {seen[sample]} and {fold} share test samples, the first is {sample!r}"
            seen[sample] = fold
    return None


def _pool(heads: Mapping[int, Predictions]) -> Pooled:
    first = next(iter(heads.values()))
    pooled = Predictions(
        source=first.source,
        modality=first.modality,
        split=first.split,
        classes=first.classes,
        sample_ids=tuple(sample for head in heads.values() for sample in head.sample_ids),
        labels=np.concatenate([head.labels for head in heads.values()]),
        logits=np.concatenate([head.logits for head in heads.values()]),
    )
    probabilities = pooled.probabilities
    return Pooled(
        predictions=pooled,
        scores=_scores(pooled),
        intervals=score_intervals(pooled.labels, probabilities.argmax(1), len(pooled.classes)),
        calibration_error=expected_calibration_error(probabilities, pooled.labels),
    )


def _scores(head: Predictions) -> Scores:
    return scores(head.labels, head.probabilities.argmax(1), head.classes)
