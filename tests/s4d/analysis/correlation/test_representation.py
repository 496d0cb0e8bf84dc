"""Centroids and pairs with planted alignment."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from observations import observed

from s4d.analysis.correlation.features import Observed, same_samples
from s4d.analysis.correlation.representation import (
    align_centroids,
    between_runs,
    centroid_study,
    class_centroids,
    matched_pairs,
)
from s4d.errors import DataError

NAMES = ("neutral", "happiness", "sadness", "anger", "fear")
Floats = NDArray[np.float64]


def samples(directions: Floats, names: tuple[str, ...], each: int, seed: int, shift: float = 0.0) -> Observed:
    """`each` samples of every class along its direction (a row), with noise and a shift of the whole modality."""
    generator = np.random.default_rng(seed)
    labels = [name for name in names for _ in range(each)]
    features = np.repeat(directions, each, axis=0) + 0.3 * generator.normal(size=(len(labels), directions.shape[1]))
    blocks = np.stack([generator.normal(size=features.shape), features + shift])
    return observed("images", labels, pooled=features + shift, blocks=blocks)


def test_centroids_by_hand() -> None:
    features = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    # Means (2, 0) and (0, 4) around (1, 2): the class with two samples weighs no more.
    assert class_centroids(features, np.array([0, 0, 1]), 2) == pytest.approx(np.array([[1.0, -2.0], [-1.0, 2.0]]))


def test_cosines_by_hand() -> None:
    found = align_centroids(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 0.0], [-1.0, 1.0]]), ("a", "b"))
    half = 0.5**0.5
    assert found.cosines == pytest.approx(np.array([[1.0, -half], [0.0, half]]))
    assert found.diagonal == pytest.approx((1 + half) / 2)
    assert found.off_diagonal == pytest.approx(-half / 2)
    assert found.contrast == pytest.approx((1 + half) / 2 + half / 2)
    assert found.p_value == pytest.approx(1 / 2), "the other of the two orders gives less"


def test_planted_alignment_is_found_whatever_the_modalities_differ_by() -> None:
    directions = np.eye(5, 8) * 2
    static = samples(directions, NAMES, 12, seed=0)
    # The dynamic side lists its classes the other way round, scaled and shifted.
    dynamic = samples(3 * directions[::-1], NAMES[::-1], 9, seed=1, shift=7.0)
    found = centroid_study(static, dynamic, NAMES)
    assert found is not None
    assert found.pooled.diagonal > 0.95
    assert found.pooled.off_diagonal == pytest.approx(-0.25, abs=0.05), "five centred directions, evenly spread"
    assert found.pooled.p_value == pytest.approx(1 / 120)
    assert abs(found.by_layer[0]) < 0.5 < found.by_layer[1]


def test_classes_that_changed_places_are_no_alignment() -> None:
    directions = np.eye(5, 8) * 2
    swapped = directions[[1, 2, 3, 4, 0]]
    found = centroid_study(samples(directions, NAMES, 12, seed=0), samples(swapped, NAMES, 12, seed=1), NAMES)
    assert found is not None
    assert found.pooled.contrast < 0
    assert found.pooled.p_value > 0.5


def test_classes_without_samples_are_left_out() -> None:
    directions = np.eye(5, 8)
    static, dynamic = samples(directions, NAMES, 3, seed=0), samples(directions[:4], NAMES[:4], 3, seed=1)
    found = centroid_study(static, dynamic, NAMES)
    assert found is not None
    assert found.pooled.classes == NAMES[:4]
    assert centroid_study(static, samples(directions[:2], NAMES[:2], 3, seed=1), NAMES) is None


def test_pairs_of_one_class_share_what_the_class_tells() -> None:
    directions = np.eye(5, 8) * 2
    found = matched_pairs(samples(directions, NAMES, 12, seed=0), samples(directions, NAMES, 9, seed=1), NAMES)
    assert found is not None
    assert found.samples == 45, "as many of each class as the side with fewer has"
    assert found.same_class[1] > 0.7
    assert abs(found.same_class[0]) < 0.15
    assert abs(found.any_class[1]) < 0.15
    other = samples(directions, tuple(f"not {name}" for name in NAMES), 2, seed=2)
    assert matched_pairs(samples(directions, NAMES, 2, seed=0), other, NAMES) is None


def test_runs_are_compared_on_the_same_samples() -> None:
    features = np.random.default_rng(0).normal(size=(9, 4))
    labels = ["neutral"] * 9
    one = observed("images", labels, blocks=np.stack([features, features**3]))
    other = observed("images", labels[2:], blocks=np.stack([2 * features[2:], features[2:] ** 2]), first=2)
    found = between_runs("a", "b", "images", one, other)
    assert found.cka.samples == 7
    assert found.cka.by_layer[0] == pytest.approx(1)
    assert found.cka.by_layer[1] < 0.9
    assert found.to_dict()["pairs"] == "the same images"
    with pytest.raises(DataError, match="no sample could be read both as images and as images"):
        same_samples(one, observed("images", labels, first=90))
