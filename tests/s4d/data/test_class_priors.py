"""Shares of the classes in training draws, against counts by hand and against what a plan really draws."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from s4d.config import Config
from s4d.data.class_priors import class_priors
from s4d.data.plan import SamplePlan
from s4d.data.sources import Source
from s4d.errors import UsageError

MakeConfig = Callable[..., Config]
MakeSource = Callable[..., Source]
# Four calm, one glad, one sad.
LABELS = [0, 0, 1, 0, 2, 0]


def source_with(config: Config, source_of: MakeSource, sampling: str, labels: list[int] | None = None) -> Source:
    labels = LABELS if labels is None else labels
    source = source_of(config, "images", len(labels), labels)
    return dataclasses.replace(source, config=source.config.model_copy(update={"sampling": sampling}))


@pytest.mark.parametrize(
    ("sampling", "weights"), [("natural", (4, 1, 1)), ("balanced", (1, 1, 1)), ("sqrt", (math.sqrt(4), 1, 1))]
)
def test_counts_by_hand(
    finetune_config: MakeConfig, source_of: MakeSource, sampling: str, weights: tuple[float, ...]
) -> None:
    found = class_priors([source_with(finetune_config(), source_of, sampling)])
    assert found == {"images": pytest.approx(tuple(weight / sum(weights) for weight in weights))}


@pytest.mark.parametrize("sampling", ["natural", "balanced", "sqrt"])
def test_they_are_what_a_plan_draws(finetune_config: MakeConfig, source_of: MakeSource, sampling: str) -> None:
    labels = LABELS * 5
    config = finetune_config()
    source = source_with(config, source_of, sampling, labels)
    plan = SamplePlan(config, [source, source_of(config, "clips", 9)], world_size=1)
    drawn = np.concatenate([np.asarray(labels)[plan.order(0, epoch)] for epoch in range(100)])
    shares = np.bincount(drawn) / len(drawn)
    # Of 3,000 draws the share has a standard deviation of at most 0.009.
    assert shares == pytest.approx(class_priors([source])["images"], abs=0.04)


def test_votes_count_by_their_shares(finetune_config: MakeConfig, source_of: MakeSource) -> None:
    source = source_with(finetune_config(), source_of, "natural", [0, 1])
    source = dataclasses.replace(source, shares=((0.5, 0.25, 0.25), (0.0, 0.75, 0.25)))
    assert class_priors([source]) == {"images": pytest.approx((0.25, 0.5, 0.25))}
    # The rarer label is drawn as often as the other: the last of three counts for half.
    weighted = source_with(finetune_config(), source_of, "balanced", [0, 0, 1])
    weighted = dataclasses.replace(weighted, shares=((1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.5, 0.5)))
    assert class_priors([weighted]) == {"images": pytest.approx((0.5, 0.25, 0.25))}


def test_a_class_without_a_sample_is_named(finetune_config: MakeConfig, source_of: MakeSource) -> None:
    with pytest.raises(UsageError, match=r"loss\.logit_adjustment: class 'glad' of head images"):
        class_priors([source_with(finetune_config(), source_of, "natural", [0, 2, 2])])
