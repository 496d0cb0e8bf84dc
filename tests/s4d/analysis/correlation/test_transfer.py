"""Heads on the other task's media: classes matched by name, views chosen, gaps between heads."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from observations import observed

from s4d.analysis.correlation.classes import class_permutations, columns_of, shared_classes
from s4d.analysis.correlation.transfer import Verdict, frame_scores_of, judge, on_shared, transfer
from s4d.errors import DataError, UsageError

STATIC = ("neutral", "happiness", "contempt", "anger")
DYNAMIC = ("anger", "anxiety", "neutral", "happiness")
SHARED = ("neutral", "happiness", "anger")


def sure_of(names: list[str], classes: tuple[str, ...], confidence: float = 0.8) -> NDArray[np.float64]:
    """One view for each name, (n, 1, K): `confidence` for that class, the rest spread evenly."""
    values = np.full((len(names), 1, len(classes)), (1 - confidence) / (len(classes) - 1))
    for row, name in enumerate(names):
        values[row, 0, classes.index(name)] = confidence
    return values


def test_classes_are_matched_by_name() -> None:
    shared = shared_classes(STATIC, DYNAMIC)
    assert shared.names == SHARED
    assert shared.to_dict() == {"shared": [*SHARED], "only_static": ["contempt"], "only_dynamic": ["anxiety"]}
    assert columns_of(SHARED, DYNAMIC, "there") == [2, 3, 0]
    with pytest.raises(UsageError, match=r"there: has no class 'contempt' \(its classes: anger, anxiety"):
        columns_of(("contempt",), DYNAMIC, "there")
    with pytest.raises(UsageError, match="have 1 classes in common, at least 2 are needed"):
        shared_classes(("happiness", "fear"), ("happiness", "sadness"))


def test_probabilities_on_the_shared_classes_sum_to_one() -> None:
    found = on_shared(np.array([[0.5, 0.1, 0.2, 0.2], [0.0, 1.0, 0.0, 0.0]]), [2, 0, 3])
    assert found == pytest.approx(np.array([[2 / 9, 5 / 9, 2 / 9], [1 / 3, 1 / 3, 1 / 3]]))


def test_confusions_of_heads_with_other_orders_lie_in_one_order() -> None:
    labels = ["neutral", "happiness", "anger", "anger", "anxiety"]
    said = ["neutral", "anger", "anger", "happiness", "anxiety"]
    for classes in (DYNAMIC, tuple(reversed(DYNAMIC))):
        item = observed("clips", labels, probabilities=sure_of(said, classes))
        found = judge(item, "run", "head", classes, SHARED)
        assert found.scores.classes == SHARED
        assert found.scores.confusion.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]
        assert found.scores.uar == pytest.approx((1 + 0 + 0.5) / 3)
        assert found.scores.war == pytest.approx(0.5)
        assert found.elsewhere == pytest.approx(0.2 / 3), "what the four shared samples give to anxiety"
        assert found.sample_ids == ("s0", "s1", "s2", "s3")


def test_mean_of_frames_and_surest_frame_can_differ() -> None:
    # Two frames lean to neutral, one is sure of anger.
    views = np.array([[[0.5, 0.1, 0.0, 0.4], [0.5, 0.1, 0.0, 0.4], [0.05, 0.0, 0.0, 0.95]]])
    item = observed("frames", ["anger"], probabilities=views)
    mean = judge(item, "run", "head", STATIC, SHARED, "mean")
    assert mean.predictions.tolist() == [SHARED.index("anger")]
    less_sure = np.array([[[0.6, 0.1, 0.0, 0.3], [0.6, 0.1, 0.0, 0.3], [0.1, 0.2, 0.0, 0.7]]])
    item = observed("frames", ["anger"], probabilities=less_sure)
    assert judge(item, "run", "head", STATIC, SHARED, "mean").predictions.tolist() == [0]
    assert judge(item, "run", "head", STATIC, SHARED, "most confident").predictions.tolist() == [2]
    assert frame_scores_of(item, "head", STATIC, SHARED) == ((0.0, 0.0), (0.0, 0.0), (1.0, 1.0))


def test_samples_of_other_classes_alone_are_refused() -> None:
    item = observed("clips", ["anxiety"], probabilities=sure_of(["anxiety"], DYNAMIC))
    with pytest.raises(DataError, match="not one sample of the split has a class that both heads have"):
        judge(item, "run", "head", DYNAMIC, SHARED)


def verdict(said: list[str], labels: list[str], first: int = 0) -> Verdict:
    item = observed("clips", labels, probabilities=sure_of(said, DYNAMIC), first=first)
    return judge(item, "run", "head", DYNAMIC, SHARED)


def test_a_gap_of_known_size() -> None:
    labels = ["neutral", "happiness", "anger"] * 20
    own = verdict(labels, labels)
    other = verdict([label if number < 30 else "neutral" for number, label in enumerate(labels)], labels)
    found = transfer("clips", own, [other])
    # Neutral is right always, the two others half of the time.
    assert other.scores.uar == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert found.retained == pytest.approx((2 / 3 - 1 / 3) / (1 - 1 / 3))
    assert found.gap.uar.value == pytest.approx(1 / 3)
    assert found.gap.uar.low > 0
    assert found.agreement == pytest.approx(40 / 60)


def test_heads_are_compared_on_the_samples_that_both_could_read() -> None:
    labels = ["neutral", "happiness", "anger", "neutral"]
    own = verdict(labels, labels)
    other = verdict(["happiness", "anger", "anger"], labels[1:], first=1)
    assert transfer("clips", own, [other]).agreement == pytest.approx(1 / 3 * 2)
    with pytest.raises(DataError, match="not one sample could be read both as clips and as clips"):
        transfer("clips", own, [verdict(labels, labels, first=50)])


def test_a_head_at_chance_retains_nothing_that_can_be_told() -> None:
    labels = ["neutral", "happiness", "anger"]
    assert transfer("clips", verdict(["neutral"] * 3, labels), [verdict(labels, labels)]).retained is None


def test_orders_of_the_classes() -> None:
    few = class_permutations(3)
    assert few.shape == (6, 3)
    assert few[0].tolist() == [0, 1, 2]
    many = class_permutations(9)
    assert many.shape == (math.factorial(7), 9)
    assert many[0].tolist() == list(range(9))
    assert all(sorted(order) == list(range(9)) for order in many[::500].tolist())
