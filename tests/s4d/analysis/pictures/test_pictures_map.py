"""The map of features and the numbers beside it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from s4d.analysis.pictures.tsne import embed, neighbourhood, perplexity_for


def groups(count: int, centres: list[tuple[float, ...]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    points = [rng.normal(centre, 0.1, (count, len(centre))) for centre in centres]
    return np.concatenate(points), np.repeat(np.arange(len(centres)), count)


def test_groups_stay_together_and_keep_their_rows() -> None:
    features, which = groups(12, [(0, 0, 0, 9), (9, 0, 0, 0), (0, 9, 0, 0)])
    order = np.random.default_rng(1).permutation(len(features))
    points = embed(features[order])
    assert points.shape == (36, 2)
    assert np.array_equal(points, embed(features[order]))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(1)
    assert (which[order][nearest] == which[order]).all()


def test_planted_neighbourhoods_have_the_numbers_they_must() -> None:
    # Two classes, each of twenty images and twenty clips: classes far apart, modalities in one place.
    features, labels = groups(40, [(0.0, 0.0), (10.0, 0.0)])
    modalities = np.tile([0, 1], 40)
    found = neighbourhood(features, labels, modalities)
    assert found["same_class"] == found["same_class_across"] == 1.0
    assert found["same_class_chance"] == pytest.approx(39 / 79)
    assert found["same_class_across_chance"] == pytest.approx(0.5)
    assert found["other_modality_chance"] == pytest.approx(40 / 79)
    assert 0.3 < found["other_modality"] < 0.7
    assert found["silhouette"] > 0.9 and found["neighbours"] == 10


def test_modalities_apart_are_seen_though_classes_are_pure() -> None:
    # Class k of the images lies where class 1 - k of the clips should be nearest.
    features, which = groups(20, [(0, 0), (10, 0), (10, 3), (0, 3)])
    labels, modalities = which % 2, which // 2
    found = neighbourhood(features, labels, modalities)
    assert found["same_class"] == 1.0 and found["other_modality"] == 0.0
    assert found["same_class_across"] == 0.0


def test_one_class_or_one_modality_leaves_out_what_is_not_defined() -> None:
    features, _ = groups(6, [(0.0, 0.0)])
    zeros = np.zeros(6, dtype=np.int64)
    assert set(neighbourhood(features, zeros, zeros)) == {"neighbours", "same_class", "same_class_chance"}
    assert neighbourhood(features, zeros, zeros)["neighbours"] == 5


def test_perplexity_fits_the_samples() -> None:
    assert perplexity_for(600) == 30.0
    assert perplexity_for(7) == 2.0
