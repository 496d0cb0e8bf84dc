from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

from s4d.metrics import scores

NAMES = tuple("abcdefg")


@pytest.mark.parametrize("absent", [(), (5,), (0, 6)], ids=["all present", "one absent", "two absent"])
@pytest.mark.parametrize("seed", range(3))
def test_against_scikit_learn(absent: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    present = [c for c in range(7) if c not in absent]
    labels = rng.choice(present, 60)
    # Absent classes are predicted too, which costs the others precision.
    predictions = np.where(rng.random(60) < 0.5, labels, rng.integers(0, 7, 60))
    ours = scores(labels, predictions, NAMES)
    true = sorted(set(labels))
    assert np.array_equal(ours.confusion, confusion_matrix(labels, predictions, labels=range(7)))
    assert ours.war == pytest.approx(accuracy_score(labels, predictions))
    assert ours.uar == pytest.approx(recall_score(labels, predictions, labels=true, average="macro"))
    assert ours.macro_f1 == pytest.approx(f1_score(labels, predictions, labels=true, average="macro"))
    for average in ("weighted", "micro"):
        expected = f1_score(labels, predictions, labels=range(7), average=average, zero_division=0)
        assert getattr(ours, f"{average}_f1") == pytest.approx(expected)
    assert ours.absent == tuple(NAMES[c] for c in range(7) if c not in true)
    assert [value is None for value in ours.recall] == [c not in true for c in range(7)]


def test_plain_values() -> None:
    values = scores(np.array([0, 0, 2]), np.array([0, 1, 2]), ("x", "y", "z")).to_dict()
    assert values["confusion"] == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert (values["uar"], values["samples"], values["recall"]) == (0.75, 3, [0.5, None, 1.0])
    assert values["classes_without_samples"] == ["y"]


@pytest.mark.parametrize(
    ("labels", "predictions", "named"), [([0], [3], "predictions"), ([-1], [0], "labels"), ([], [], "at least one")]
)
def test_bad_input(labels: list[int], predictions: list[int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        scores(np.array(labels, dtype=np.int64), np.array(predictions, dtype=np.int64), ("x", "y", "z"))
