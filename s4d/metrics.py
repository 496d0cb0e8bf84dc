"""Scores of a classifier from its confusion matrix, with all classes of the head pinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Scores of one head; `recall` is None for a class without a sample, `absent` names those classes.

    `war` is plain accuracy, `uar` the mean recall and `macro_f1` the mean F1 over the classes that have samples.
    """

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    war: float
    uar: float
    weighted_f1: float
    micro_f1: float
    macro_f1: float
    recall: tuple[float | None, ...]
    absent: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "samples": int(self.confusion.sum()),
            "war": self.war,
            "uar": self.uar,
            "weighted_f1": self.weighted_f1,
            "micro_f1": self.micro_f1,
            "macro_f1": self.macro_f1,
            "classes": list(self.classes),
            "recall": list(self.recall),
            "classes_without_samples": list(self.absent),
            "num_classes_without_samples": len(self.absent),
            "confusion": self.confusion.tolist(),
        }


def confusion_matrix(labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes): rows are true classes, columns predicted ones."""
    for name, values in (("labels", labels), ("predictions", predictions)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(f"{name}: expected classes 0..{classes - 1}, got {values.min()}..{values.max()}")
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)


def scores(labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: Sequence[str]) -> Scores:
    """Scores of predicted class numbers (n,) against true ones (n,); raises ValueError without a sample."""
    confusion = confusion_matrix(labels, predictions, len(classes))
    total = int(confusion.sum())
    if not total:
        raise ValueError("scores: expected at least one sample, got none")
    hits, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    present = support > 0
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    accuracy = float(hits.sum() / total)
    return Scores(
        classes=tuple(classes),
        confusion=confusion,
        war=accuracy,
        uar=float(recall[present].mean()),
        weighted_f1=float((f1 * support).sum() / total),
        # With one label per sample every false positive is another class's false negative.
        micro_f1=accuracy,
        macro_f1=float(f1[present].mean()),
        recall=tuple(float(value) if has else None for value, has in zip(recall, present, strict=True)),
        absent=tuple(name for name, has in zip(classes, present, strict=True) if not has),
    )
