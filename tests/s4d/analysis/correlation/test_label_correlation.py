"""Correlations of predicted distributions, planted and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from s4d.analysis.correlation.labels import (
    correlate_difficulty,
    correlate_samples,
    correlate_tables,
    correlations,
    mean_distributions,
    rank_correlations,
)

Floats = NDArray[np.float64]


def test_rows_are_correlated_as_scipy_does() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 6, size=(2, 30, 7)).astype(float)
    x[0] = 0.1
    plain, ranks = correlations(x, y), rank_correlations(x, y)
    assert np.isnan(plain[0])
    assert np.isnan(ranks[0])
    assert plain[1:] == pytest.approx([pearsonr(a, b).statistic for a, b in zip(x[1:], y[1:], strict=True)])
    assert ranks[1:] == pytest.approx([spearmanr(a, b).statistic for a, b in zip(x[1:], y[1:], strict=True)])


def test_mean_distributions_by_true_class() -> None:
    values = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]])
    assert mean_distributions(values, np.array([0, 0, 1]), 2) == pytest.approx(np.array([[0.7, 0.3], [0.1, 0.9]]))


def table(confusions: Floats, recall: float) -> Floats:
    """Each row: `recall` for its own class, the rest shared out as in `confusions`."""
    beside = np.where(np.eye(len(confusions), dtype=bool), 0, confusions)
    return recall * np.eye(len(confusions)) + (1 - recall) * beside / beside.sum(1, keepdims=True)


def test_the_same_confusions_at_another_skill_correlate_fully() -> None:
    confusions = np.random.default_rng(1).random((6, 6))
    found = correlate_tables(table(confusions, 0.9), table(confusions, 0.4), tuple("abcdef"))
    assert found.beside == pytest.approx({"pearson": 1, "spearman": 1})
    assert found.p_value == pytest.approx({"pearson": 1 / 720, "spearman": 1 / 720})


def test_high_recalls_alone_do_not_look_like_common_confusions() -> None:
    generator = np.random.default_rng(2)
    first, second = (table(generator.random((6, 6)) + 0.1, 0.9) for _ in range(2))
    found = correlate_tables(first, second, tuple("abcdef"))
    pearson, p_value = found.entries["pearson"], found.p_value["pearson"]
    assert pearson is not None
    assert pearson > 0.98, "the diagonal makes it so"
    assert p_value is not None
    assert p_value > 0.05


@pytest.mark.parametrize("strength", [0.0, 0.5, 0.9])
def test_a_planted_correlation_of_confusions_is_recovered(strength: float) -> None:
    beside = ~np.eye(8, dtype=bool)
    common, own = np.random.default_rng(3).normal(size=(2, 56))
    common = (common - common.mean()) / common.std()
    own -= own.mean() + common * (common @ own) / (common @ common)
    first, second = np.full((2, 8, 8), 20.0)
    first[beside] = common
    second[beside] = strength * common + (1 - strength**2) ** 0.5 * own / own.std()
    found = correlate_tables(first, second, tuple("abcdefgh"))
    assert found.beside["pearson"] == pytest.approx(strength)
    assert found.p_value["pearson"] is not None
    assert (found.p_value["pearson"] < 0.01) == (strength > 0)


def test_order_of_the_classes_matters_off_the_diagonal() -> None:
    confusions = table(np.random.default_rng(4).random((5, 5)), 0.5)
    order = [1, 2, 3, 4, 0]
    found = correlate_tables(confusions, confusions[np.ix_(order, order)], tuple("abcde"))
    assert found.beside["pearson"] is not None
    assert found.beside["pearson"] < 0.9
    assert found.entries["pearson"] is not None
    assert found.entries["pearson"] > found.beside["pearson"]


def test_tables_that_do_not_vary_have_no_correlation() -> None:
    found = correlate_tables(np.full((3, 3), 1 / 3), np.eye(3), tuple("abc"))
    assert found.entries == {"pearson": None, "spearman": None}
    assert found.p_value == {"pearson": None, "spearman": None}


def softmax(logits: Floats) -> Floats:
    weights = np.exp(logits)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def test_clips_agree_beyond_their_class() -> None:
    generator = np.random.default_rng(5)
    numbers = np.arange(300) % 5
    # What a clip is (its class), and what is its own, common to both heads or not.
    by_class = 2 * np.eye(5)[numbers]
    clip, *noise = generator.normal(size=(3, 300, 5))
    both = correlate_samples(softmax(by_class + clip), softmax(by_class + clip + 0.1 * noise[0]), numbers)["spearman"]
    apart = correlate_samples(softmax(by_class + clip), softmax(by_class + noise[1]), numbers)["spearman"]
    assert both.mean is not None
    assert both.mean.value > 0.9
    assert both.mean.low < both.mean.value < both.mean.high
    assert both.same_class is not None
    assert both.any_class is not None
    assert both.any_class + 0.2 < both.same_class < both.mean.low - 0.2
    assert apart.mean is not None
    assert apart.same_class == pytest.approx(apart.mean.value, abs=0.08)


def test_flat_distributions_are_counted_not_averaged() -> None:
    first = np.array([[0.5, 0.3, 0.2], [1 / 3, 1 / 3, 1 / 3]])
    found = correlate_samples(first, np.array([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1]]), np.array([0, 1]))["spearman"]
    assert found.flat == 1
    assert found.values == pytest.approx([1.0])
    assert found.same_class is None, "no class has two clips"


def test_difficulty_of_clips_and_of_classes() -> None:
    generator = np.random.default_rng(6)
    numbers = np.repeat([0, 1], 200)
    level = np.where(numbers == 0, 0.3, 0.7)
    common, *own = 0.05 * generator.normal(size=(3, 400))

    def predicted(true: Floats) -> Floats:
        return np.where(np.eye(2, dtype=bool)[numbers], true[:, None], 1 - true[:, None])

    hard_classes = correlate_difficulty(predicted(level + own[0]), predicted(level + own[1]), numbers)
    assert hard_classes.over_clips["pearson"] is not None
    assert hard_classes.over_clips["pearson"] > 0.9
    assert hard_classes.within["pearson"] == pytest.approx(0, abs=0.15)
    hard_clips = correlate_difficulty(predicted(level + common), predicted(level + common), numbers)
    assert hard_clips.within["pearson"] == pytest.approx(1)
