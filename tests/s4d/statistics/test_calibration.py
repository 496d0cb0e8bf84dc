"""Calibration of known cases, and the exact test of pairs against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from s4d.statistics import brier_score, calibration_bins, expected_calibration_error, mcnemar


def test_expected_calibration_error_by_hand() -> None:
    """Two bins of (0, 1]: three samples at mean 0.8 of which two are right, one at 0.5 that is right."""
    probabilities = [[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.5, 0.5]]
    labels = [0, 1, 0, 0]
    found = calibration_bins(probabilities, labels, bins=2)
    assert found.counts.tolist() == [1, 3]
    assert found.confidence.tolist() == pytest.approx([0.5, 0.8])
    assert found.accuracy.tolist() == pytest.approx([1.0, 2 / 3])
    assert found.expected_error == pytest.approx(0.25 * 0.5 + 0.75 * (0.8 - 2 / 3))
    assert expected_calibration_error(probabilities, labels, bins=2) == found.expected_error


def test_bins_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    positive = generator.uniform(0.5, 1, size=500)
    labels = (generator.random(500) < positive**2).astype(np.int64)
    probabilities = np.stack([1 - positive, positive], 1)
    found = calibration_bins(probabilities, labels, bins=10)
    accuracy, confidence = calibration_curve(labels, positive, n_bins=10)
    filled = found.counts > 0
    assert found.accuracy[filled] == pytest.approx(accuracy)
    assert found.confidence[filled] == pytest.approx(confidence)
    assert brier_score(probabilities, labels) == pytest.approx(2 * brier_score_loss(labels, positive))


def test_a_calibrated_classifier_has_a_small_error_and_an_overconfident_one_a_large() -> None:
    generator = np.random.default_rng(1)
    honest = generator.dirichlet(np.ones(5), size=20_000)
    labels = (honest.cumsum(1) < generator.random(20_000)[:, None]).sum(1)
    boasting = honest**4 / (honest**4).sum(1, keepdims=True)
    assert expected_calibration_error(honest, labels) < 0.015
    assert expected_calibration_error(boasting, labels) > 0.15
    assert brier_score(boasting, labels) > brier_score(honest, labels)


def test_certainty_is_in_the_last_bin() -> None:
    assert calibration_bins([[1.0, 0.0]], [0], bins=15).counts.tolist() == [0] * 14 + [1]


@pytest.mark.parametrize(
    ("probabilities", "labels", "words"),
    [
        ([[0.5, 0.5]], [0, 1], "expected \\(n, K\\) and \\(n,\\)"),
        ([[2.0, -1.0]], [0], "from 0 on that add up to 1"),
        ([[0.5, 0.4]], [0], "add up to 1"),
        ([[float("nan"), 0.4]], [0], "add up to 1"),
        ([[0.5, 0.5]], [2], "labels: expected classes 0..1"),
    ],
)
def test_what_is_no_probability_is_refused(probabilities: list, labels: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        expected_calibration_error(probabilities, labels)


@pytest.mark.parametrize("split", [(0, 0), (0, 1), (1, 1), (3, 9), (9, 3), (0, 6), (40, 61), (700, 803), (2500, 2500)])
def test_p_values_are_those_of_the_exact_binomial_test(split: tuple[int, int]) -> None:
    first_only, second_only = split
    labels = np.zeros(first_only + second_only + 7, dtype=np.int64)
    first, second = np.zeros_like(labels), np.zeros_like(labels)
    second[:first_only] = 1
    first[first_only : first_only + second_only] = 1
    first[-2:] = second[-2:] = 1
    found = mcnemar(first, second, labels)
    assert (found.first_only, found.second_only) == split
    throws = first_only + second_only
    assert found.p_value == pytest.approx(binomtest(first_only, throws).pvalue if throws else 1.0, rel=1e-9)


def test_the_exact_test_is_seldom_wrong() -> None:
    generator = np.random.default_rng(2)
    labels = np.zeros(200, dtype=np.int64)
    wrong = sum(mcnemar(*generator.integers(0, 2, size=(2, 200)), labels).p_value < 0.05 for _ in range(300))
    assert 0.005 < wrong / 300 < 0.088


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="three equal lengths"):
        mcnemar([0, 1], [0], [0, 1])
