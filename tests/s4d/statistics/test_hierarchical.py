"""The bootstrap over seeds and samples: known cases, and how often it finds what is not there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from s4d.statistics import hierarchical_bootstrap
from s4d.statistics.hierarchical import stretch

CLASSES = 4
LABELS = np.repeat(np.arange(CLASSES), [50, 40, 30, 30])


def with_accuracy(accuracies: np.ndarray, generator: np.random.Generator, hardness: np.ndarray) -> np.ndarray:
    """Predictions (S, n): each seed right with its accuracy, more rarely on samples that are hard for every seed."""
    noise = generator.random((len(accuracies), len(LABELS)))
    right = 0.5 * noise + 0.5 * hardness < accuracies[:, None]
    return np.where(right, LABELS, (LABELS + 1) % CLASSES)


def false_gains(seed_spread: float, simulations: int = 200) -> float:
    """How often an interval excludes 0 although both recipes are alike but for the luck of their 5 seeds."""
    generator = np.random.default_rng(5)
    found = 0
    for _ in range(simulations):
        hardness = generator.random(len(LABELS))
        first, second = (
            with_accuracy(0.5 + seed_spread * generator.standard_normal(5), generator, hardness) for _ in range(2)
        )
        found += hierarchical_bootstrap(first, second, LABELS, classes=CLASSES, draws=400).uar.excludes(0.0)
    return found / simulations


@pytest.mark.parametrize("seed_spread", [0.0, 0.02, 0.1])
def test_no_gain_is_rarely_found(seed_spread: float) -> None:
    # Three binomial deviations of 200 simulations above 5 %; where seeds hardly vary the interval is cautious.
    assert false_gains(seed_spread) < 0.096


def test_where_only_seeds_vary_it_errs_about_as_often_as_it_promises() -> None:
    assert false_gains(0.15) > 0.015


def test_a_planted_gain_is_found() -> None:
    generator = np.random.default_rng(6)
    hardness = generator.random(len(LABELS))
    first = with_accuracy(np.full(5, 0.45) + 0.01 * generator.standard_normal(5), generator, hardness)
    second = with_accuracy(np.full(5, 0.60) + 0.01 * generator.standard_normal(5), generator, hardness)
    gain = hierarchical_bootstrap(first, second, LABELS, classes=CLASSES).uar
    assert 0 < gain.low < gain.value < gain.high


def test_the_value_is_the_mean_gain_over_seeds() -> None:
    labels = [0, 0, 1, 1]
    first, second = [[0, 1, 1, 1], [0, 0, 0, 0]], [[0, 0, 1, 1], [0, 0, 1, 0]]
    found = hierarchical_bootstrap(first, second, labels, classes=2, draws=100)
    assert found.uar.value == pytest.approx((0.25 + 0.25) / 2)
    assert [recall.value for recall in found.recall if recall] == [0.25, 0.25]


def test_seeds_alone_give_the_t_interval() -> None:
    """Every sample of a class alike, so that samples add nothing: ten classes of which each seed gains some."""
    labels = np.repeat(np.arange(10), 3)
    gained = [6, 2, 9, 4, 5]
    first = np.tile((labels + 1) % 10, (5, 1))
    second = np.stack([np.where(labels < count, labels, (labels + 1) % 10) for count in gained])
    found = hierarchical_bootstrap(first, second, labels, classes=10, draws=20_000).uar
    half = t.ppf(0.975, 4) * np.std(np.array(gained) / 10, ddof=1) / np.sqrt(5)
    assert found.value == pytest.approx(0.52)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.06)


def test_many_seeds_are_not_stretched() -> None:
    assert stretch(5, 0.95) == pytest.approx(2.776445 / 1.959964 * np.sqrt(1.25), rel=1e-6)
    assert stretch(10_000, 0.95) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("first", "second"), [([[0, 1]], [[0, 1]]), ([[0, 1], [0, 1]], [[0, 1]] * 3), ([0, 1], [0, 1])]
)
def test_one_seed_or_other_seeds_are_refused(first: list, second: list) -> None:
    with pytest.raises(ValueError, match="two or more seeds"):
        hierarchical_bootstrap(first, second, [0, 1], classes=2)
