"""CKA of features whose alignment is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from s4d.analysis.correlation.similarity import linear_cka

Floats = NDArray[np.float64]


def cka(first: Floats, second: Floats) -> tuple[float, float]:
    """Standard and debiased CKA of one layer each."""
    found = linear_cka(first[None], second[None])
    return float(found.standard[0, 0]), float(found.debiased[0, 0])


def from_kernels(x: Floats, y: Floats) -> float:
    """The unbiased estimate by its definition on n x n kernels without their diagonals."""
    ones, n = np.ones(len(x)), len(x)

    def hsic(a: Floats, b: Floats) -> float:
        k, m = a @ a.T, b @ b.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        both = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return float(np.trace(k @ m) + both - 2 / (n - 2) * (ones @ k @ m @ ones))

    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


def test_three_samples_of_two_features_by_hand() -> None:
    # Centred: X = [[-1, -1], [0, 0], [1, 1]], Y = [[-1, 1], [1, 1], [0, -2]].
    # X'Y = [[1, -3], [1, -3]], X'X = [[2, 2], [2, 2]], Y'Y = [[2, 0], [0, 6]]: sums of squares 20, 16 and 40.
    x = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    y = np.array([[0.0, 4.0], [2.0, 4.0], [1.0, 1.0]])
    standard, debiased = cka(x, y)
    assert standard == pytest.approx(20 / math.sqrt(16 * 40))
    assert math.isnan(debiased), "three samples are too few for the unbiased estimate"


def test_features_are_alike_up_to_rotation_scale_and_shift() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 6))
    rotation, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    assert cka(x, x) == pytest.approx((1, 1))
    assert cka(x, 3.5 * x @ rotation + 11) == pytest.approx((1, 1))


def test_independent_features_are_unrelated_even_with_few_samples() -> None:
    generator = np.random.default_rng(1)
    values = np.array([cka(generator.normal(size=(24, 64)), generator.normal(size=(24, 64))) for _ in range(40)])
    assert abs(values[:, 1].mean()) < 0.05
    assert values[:, 0].mean() > 0.6, "the standard estimate is what makes the debiased one necessary"


def test_the_unbiased_estimate_is_that_of_the_kernels() -> None:
    generator = np.random.default_rng(2)
    x = generator.normal(size=(15, 4))
    y = 0.7 * x @ generator.normal(size=(4, 9)) + generator.normal(size=(15, 9)) + 5
    assert cka(x, y)[1] == pytest.approx(from_kernels(x, y))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_planted_common_part_is_recovered(share: float) -> None:
    # x = a s + b u, y = a s + b v with s, u, v independent and a^2 = share: cov(x, y) = share I, so CKA = share^2.
    generator = np.random.default_rng(3)
    common, own, other = generator.normal(size=(3, 6000, 5))
    x, y = (math.sqrt(share) * common + math.sqrt(1 - share) * noise for noise in (own, other))
    assert cka(x, y)[1] == pytest.approx(share**2, abs=0.03)


def test_every_layer_against_every_layer() -> None:
    generator = np.random.default_rng(4)
    a, b, c = generator.normal(size=(3, 30, 5))
    found = linear_cka(np.stack([a, b]), np.stack([c, a, b]))
    assert found.debiased.shape == (2, 3)
    assert found.debiased[0, 1] == pytest.approx(1)
    assert found.debiased[1, 2] == pytest.approx(1)
    assert np.abs(found.debiased[[0, 0, 1, 1], [0, 2, 0, 1]]).max() < 0.3
    assert found.by_layer == pytest.approx([found.debiased[0, 0], found.debiased[1, 1]])
    assert found.samples == 30


def test_features_that_do_not_vary_have_no_alignment() -> None:
    x = np.random.default_rng(5).normal(size=(10, 3))
    assert all(math.isnan(value) for value in cka(x, np.full((10, 3), 0.1)))


def test_samples_of_both_sides_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="expected"):
        linear_cka(np.zeros((1, 5, 2)), np.zeros((1, 6, 2)))
