"""Bootstrap intervals: what they say of known cases, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, recall_score

from s4d.statistics import bootstrap_interval, paired_bootstrap, score_intervals, uar
from s4d.statistics.recall_draws import recall_draws, recalls_of, uar_of, war_of

SIMULATIONS = 300
# Three binomial deviations of 300 simulations around 5 % are 1.2 % to 8.8 %.
SANE_MISSES = (0.012, 0.088)


def flipped(truth: np.ndarray, share: float, generator: np.random.Generator, classes: int) -> np.ndarray:
    """`truth` with a share of the labels moved to the next class."""
    return np.where(generator.random(len(truth)) < share, (truth + 1) % classes, truth)


def test_uar_is_the_mean_recall_of_classes_with_samples() -> None:
    labels, predictions = [0, 0, 0, 1, 1, 3], [0, 0, 1, 1, 0, 2]
    assert uar(labels, predictions, 4) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


@pytest.mark.parametrize("seed", range(20))
def test_scores_agree_with_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    classes = int(generator.integers(2, 12))
    labels = generator.integers(0, classes, size=int(generator.integers(1, 80)))
    predictions = generator.integers(0, classes, size=len(labels))
    found = score_intervals(labels, predictions, classes, draws=10)
    present = np.unique(labels)
    recalls = recall_score(labels, predictions, labels=present, average=None, zero_division=0)
    assert found.uar.value == pytest.approx(recalls.mean())
    assert found.war.value == pytest.approx(accuracy_score(labels, predictions))
    assert [recall.value for recall in found.recall if recall is not None] == pytest.approx(recalls)
    assert {number for number, recall in enumerate(found.recall) if recall is not None} == set(present)


def test_weights_of_recalls_are_those_of_a_loop_over_draws() -> None:
    """The same counts of samples, applied one draw at a time to plain predictions."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 3], [4, 7, 5])
    predictions = flipped(labels, 0.4, generator, 4)
    rows = (predictions == labels).astype(float)[None]
    drawn = recall_draws(rows, labels, 4, draws=50, seed=3)
    again = np.random.default_rng(3)
    chosen = {number: again.integers(size, size=(50, size)) for number, size in ((0, 4), (1, 7), (3, 5))}
    for draw in range(50):
        picked = np.concatenate([np.flatnonzero(labels == number)[chosen[number][draw]] for number in chosen])
        assert uar_of(drawn[draw, 0]) == pytest.approx(uar(labels[picked], predictions[picked], 4))
        assert war_of(drawn[draw, 0], labels) == pytest.approx((labels[picked] == predictions[picked]).mean())


def test_chunks_of_draws_keep_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.repeat([0, 1], [30, 10])
    rows = np.random.default_rng(0).integers(0, 2, size=(2, 40)).astype(float)
    monkeypatch.setattr("s4d.statistics.recall_draws._CELLS", 64)
    drawn = recall_draws(rows, labels, 2, draws=400, seed=0)
    assert not np.isnan(drawn).any()
    assert drawn.mean(0) == pytest.approx(recalls_of(rows, labels, 2), abs=0.05)
    assert drawn.std(0)[0, 0] == pytest.approx(np.sqrt(rows[0, :30].mean() * (1 - rows[0, :30].mean()) / 30), rel=0.15)


def test_a_perfect_classifier_has_no_width_and_an_absent_class_no_interval() -> None:
    found = score_intervals([0, 0, 1], [0, 0, 1], 3, draws=100)
    assert (found.uar.low, found.uar.value, found.uar.high) == (1.0, 1.0, 1.0)
    assert found.recall[2] is None
    assert found.to_dict(["a", "b", "c"])["recall"]["c"] is None


def test_the_seed_alone_decides() -> None:
    labels = np.repeat([0, 1], 301)
    predictions = flipped(labels, 0.3, np.random.default_rng(0), 2)
    same = [score_intervals(labels, predictions, 2, draws=200, seed=7) for _ in range(2)]
    assert same[0] == same[1] != score_intervals(labels, predictions, 2, draws=200, seed=8)


def test_the_interval_holds_the_truth_as_often_as_it_promises() -> None:
    generator = np.random.default_rng(1)
    misses = {"war": 0, "uar": 0}
    labels = np.repeat([0, 1, 2], [100, 60, 40])
    recalls = np.array([0.8, 0.5, 0.3])
    truth = {"war": float(recalls @ [0.5, 0.3, 0.2]), "uar": float(recalls.mean())}
    for _ in range(SIMULATIONS):
        predictions = np.where(generator.random(200) < recalls[labels], labels, (labels + 1) % 3)
        found = score_intervals(labels, predictions, 3, draws=500)
        misses["war"] += found.war.excludes(truth["war"])
        misses["uar"] += found.uar.excludes(truth["uar"])
    assert all(SANE_MISSES[0] < missed / SIMULATIONS < SANE_MISSES[1] for missed in misses.values()), misses


def test_a_planted_gain_is_found_and_none_where_there_is_none() -> None:
    generator = np.random.default_rng(2)
    labels = np.repeat([0, 1, 2, 3], [120, 80, 60, 40])
    found, wrong = 0, 0
    for _ in range(SIMULATIONS):
        first = flipped(labels, 0.5, generator, 4)
        found += paired_bootstrap(first, flipped(labels, 0.3, generator, 4), labels, classes=4, draws=400).uar.low > 0
        wrong += paired_bootstrap(first, flipped(labels, 0.5, generator, 4), labels, classes=4, draws=400).uar.excludes(
            0.0
        )
    assert found / SIMULATIONS > 0.95
    assert SANE_MISSES[0] < wrong / SIMULATIONS < SANE_MISSES[1]


def test_a_gain_is_that_of_the_second_over_the_first() -> None:
    labels = [0, 0, 1, 1]
    gain = paired_bootstrap([0, 1, 1, 1], [0, 0, 1, 0], labels, classes=2, draws=50)
    assert (gain.recall[0], gain.recall[1]) != (None, None)
    assert [recall.value for recall in gain.recall if recall] == [0.5, -0.5]
    assert (gain.uar.value, gain.war.value) == (0.0, 0.0)


def test_pairs_are_worth_more_than_two_single_intervals() -> None:
    """Two classifiers that err on the same samples differ by little, however uncertain each is alone."""
    labels = np.zeros(200, dtype=np.int64)
    first = np.where(np.arange(200) < 100, 0, 1)
    second = np.where(np.arange(200) < 112, 0, 1)
    gain = paired_bootstrap(first, second, labels, classes=2).war
    alone = score_intervals(labels, first, 2).war
    assert gain.low > 0
    assert gain.high - gain.low < (alone.high - alone.low) / 1.9


def test_any_statistic_and_its_strata() -> None:
    values = np.arange(200.0)
    spread = bootstrap_interval(lambda array: float(array.mean()), [values], draws=1000)
    error = values.std() / np.sqrt(200)
    assert spread.value == 99.5
    assert (spread.high - spread.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    groups = np.repeat([0, 1], 100)
    means = bootstrap_interval(lambda group: float(group.mean()), [groups], draws=20, strata=groups)
    assert (means.low, means.high) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: uar([], [], 2), "at least one"),
        (lambda: uar([0, 2], [0, 1], 2), "labels: expected classes 0..1, got 0..2"),
        (lambda: uar([0, 1], [0, 5], 2), "predictions: expected classes 0..1, got 0..5"),
        (lambda: uar([0, 1], [0], 2), "expected 2 a row"),
        (lambda: uar([0.0, 1.0], [0, 1], 2), "expected class numbers, got float64"),
        (lambda: score_intervals([0], [0], 1, draws=0), "draws: expected at least 1"),
        (lambda: score_intervals([0], [0], 1, level=95), "level: expected a number between 0 and 1"),
        (lambda: bootstrap_interval(len, [np.zeros(2), np.zeros(3)]), "expected one length"),
        (lambda: bootstrap_interval(len, [np.zeros(2)], strata=[1]), "strata: expected 2 groups"),
        (lambda: bootstrap_interval(lambda a: float("nan"), [np.zeros(2)], draws=3), "expected finite values"),
    ],
)
def test_what_cannot_be_computed_is_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
