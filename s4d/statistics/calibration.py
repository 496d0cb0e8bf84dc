"""Whether the probability of the predicted class says how often it is right.

Letters: n samples, K classes, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 15
# Means of float32 softmax outputs add up to 1 only so well.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationBins:
    """Samples by the probability of their predicted class in B equal steps of (0, 1]; means are NaN in an empty bin."""

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def expected_error(self) -> float:
        """Mean over samples of the distance between confidence and accuracy of their bin."""
        filled = self.counts > 0
        gaps = np.abs(self.confidence[filled] - self.accuracy[filled])
        return float(gaps @ self.counts[filled] / self.counts.sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "edges": self.edges.tolist(),
            "counts": self.counts.tolist(),
            "confidence": self.confidence.tolist(),
            "accuracy": self.accuracy.tolist(),
        }


def calibration_bins(probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS) -> CalibrationBins:
    """Bins of probabilities (n, K) against class numbers (n,); a confidence on an edge falls into the lower bin."""
    table, true = _checked(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins: expected at least 1, got {bins}")
    confidence = table.max(1)
    right = (table.argmax(1) == true).astype(np.float64)
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    divisor = np.where(counts > 0, counts, np.nan)
    return CalibrationBins(
        edges=edges,
        counts=counts,
        confidence=np.bincount(places, weights=confidence, minlength=bins) / divisor,
        accuracy=np.bincount(places, weights=right, minlength=bins) / divisor,
    )


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS) -> float:
    """Mean distance between the probability of the predicted class and how often it is right, by bins of the first."""
    return calibration_bins(probabilities, labels, bins).expected_error


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean squared distance between probabilities (n, K) and the true class, summed over classes: 0 to 2, no bins."""
    table, true = _checked(probabilities, labels)
    return float(((table - np.eye(table.shape[1])[true]) ** 2).sum(1).mean())


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    table, true = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if table.ndim != 2 or not len(table) or true.shape != table.shape[:1]:
        raise ValueError(f"probabilities, labels: expected (n, K) and (n,), got {table.shape} and {true.shape}")
    if not (table >= 0).all() or not np.allclose(table.sum(1), 1, atol=_SUM_TOLERANCE):
        raise ValueError("probabilities: expected rows of numbers from 0 on that add up to 1")
    if not 0 <= true.min() <= true.max() < table.shape[1]:
        raise ValueError(f"labels: expected classes 0..{table.shape[1] - 1}, got {true.min()}..{true.max()}")
    return table, true
