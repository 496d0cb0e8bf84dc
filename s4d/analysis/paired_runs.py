"""Two runs on the same test samples: what the second gains over the first, and whether chance would do as much.

Letters: n samples that both runs predicted, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4d.analysis.predictions import Predictions, read_predictions
from s4d.errors import DataError, UsageError
from s4d.statistics import (
    McNemar,
    ScoreIntervals,
    brier_score,
    expected_calibration_error,
    mcnemar,
    paired_bootstrap,
    score_intervals,
)

FILE = "predictions.npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How far the probabilities of one run can be believed; `confidence` is the mean one of the predicted class."""

    expected_error: float
    brier: float
    confidence: float

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON."""
        return {
            "expected_calibration_error": self.expected_error,
            "brier_score": self.brier,
            "mean_confidence": self.confidence,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedHeads:
    """One source in both runs; every gain is the second's over the first's.

    `only_first` and `only_second` count samples that the other run did not predict and that are left out here.
    """

    source: str
    modality: str
    split: str
    classes: tuple[str, ...]
    samples: int
    only_first: int
    only_second: int
    first: ScoreIntervals
    second: ScoreIntervals
    gain: ScoreIntervals
    test: McNemar
    calibration: tuple[Calibration, Calibration]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        runs = {
            name: {**scores.to_dict(self.classes), "calibration": calibration.to_dict()}
            for name, scores, calibration in zip(
                ("first", "second"), (self.first, self.second), self.calibration, strict=True
            )
        }
        return {
            "modality": self.modality,
            "split": self.split,
            "classes": list(self.classes),
            "samples": self.samples,
            "samples_only_in_first": self.only_first,
            "samples_only_in_second": self.only_second,
            **runs,
            "gain": self.gain.to_dict(self.classes),
            "mcnemar": self.test.to_dict(),
        }


def compare_runs(first: Path, second: Path, source: str | None = None) -> list[PairedHeads]:
    """Every source that both runs predicted, or the one asked for.

    A run is its folder, or the file with its predictions. DataError where the two do not belong together, and where
    there is nothing to compare; UsageError for a source that a run does not have.
    """
    files = (predictions_file(first), predictions_file(second))
    found = [read_predictions(file) for file in files]
    if source is not None:
        for file, heads in zip(files, found, strict=True):
            if source not in heads:
                raise UsageError(f"{file}: has no source {source!r} (sources: {', '.join(heads)})")
    shared = [name for name in found[0] if name in found[1]] if source is None else [source]
    if not shared:
        raise DataError(
            f"{files[1]}: has no source of {files[0]} ({', '.join(found[1])} against {', '.join(found[0])})"
        )
    return [_compare(found[0][name], found[1][name], f"{files[1]}: {name}") for name in shared]


def predictions_file(run: Path) -> Path:
    """The file with a run's predictions; DataError says which command makes it if it is missing."""
    file = run / FILE if run.is_dir() else run
    if not file.is_file():
        wanted = file if file.suffix == ".npz" else file / FILE
        raise DataError(f"{wanted}: no such file; `s4d evaluate {wanted.parent} --out FOLDER` writes one, give FOLDER")
    return file


def _compare(first: Predictions, second: Predictions, where: str) -> PairedHeads:
    _refuse_strangers(first, second, where)
    # Columns of the second in the order of the first's classes, and the samples of both in the order of the first.
    columns = [second.classes.index(name) for name in first.classes]
    place_of = {name: place for place, name in enumerate(second.sample_ids)}
    rows = [place for place, name in enumerate(first.sample_ids) if name in place_of]
    if not rows:
        raise DataError(f"{where}: sample_ids: no sample of the first run is here")
    others = [place_of[first.sample_ids[row]] for row in rows]
    labels = first.labels[rows]
    _refuse_other_labels(labels, np.argsort(columns)[second.labels[others]], first, rows, where)
    tables = (first.probabilities[rows], second.probabilities[others][:, columns])
    one, two = (table.argmax(1) for table in tables)
    classes = len(first.classes)
    return PairedHeads(
        source=first.source,
        modality=first.modality,
        split=first.split,
        classes=first.classes,
        samples=len(rows),
        only_first=len(first.sample_ids) - len(rows),
        only_second=len(second.sample_ids) - len(rows),
        first=score_intervals(labels, one, classes),
        second=score_intervals(labels, two, classes),
        gain=paired_bootstrap(one, two, labels, classes=classes),
        test=mcnemar(one, two, labels),
        calibration=(_calibration(tables[0], labels), _calibration(tables[1], labels)),
    )


def _calibration(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> Calibration:
    return Calibration(
        expected_error=expected_calibration_error(probabilities, labels),
        brier=brier_score(probabilities, labels),
        confidence=float(probabilities.max(1).mean()),
    )


def _refuse_strangers(first: Predictions, second: Predictions, where: str) -> None:
    for field in ("modality", "split"):
        before, after = getattr(first, field), getattr(second, field)
        if before != after:
            raise DataError(f"{where}: {field}: {after!r}, but {before!r} in the first run")
    stranger = next(iter(sorted(set(first.classes) ^ set(second.classes))), None)
    if stranger is not None:
        raise DataError(f"{where}: classes: {stranger!r} is a class of one run alone")


def _refuse_other_labels(
    labels: NDArray[np.int64], others: NDArray[np.int64], first: Predictions, rows: Sequence[int], where: str
) -> None:
    """DataError with the first sample that the runs give different true classes."""
    if np.array_equal(labels, others):
        return
    place = int(np.argmax(labels != others))
    raise DataError(
        f"{where}: labels: sample {first.sample_ids[rows[place]]!r} is {first.classes[others[place]]!r}, "
        f"but {first.classes[labels[place]]!r} in the first run"
    )
