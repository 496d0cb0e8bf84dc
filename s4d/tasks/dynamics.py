"""How much of a score on clips rests on their dynamics: the same model and frames in another order.

A model that only looks at single frames scores the same on shuffled and reversed clips; one that also gains nothing
from several frames scores the same on a frozen one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from s4d.data.sampling import FRAME_ORDERS
from s4d.errors import DataError
from s4d.metrics import Scores, scores
from s4d.statistics import ScoreIntervals, paired_bootstrap
from s4d.tasks.evaluate import Evaluator, SourceResult

ORDERS = tuple(order for order in FRAME_ORDERS if order != "kept")


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderEffect:
    """Scores of a head on reordered clips, and `drop`: what they lost on the same samples, with paired intervals."""

    frame_order: str
    scores: Scores
    drop: ScoreIntervals

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        drop = {"uar": self.drop.uar.to_dict(), "war": self.drop.war.to_dict()}
        return {
            "samples": int(self.scores.confusion.sum()),
            "uar": self.scores.uar,
            "war": self.scores.war,
            "drop": drop,
        }


def clip_dynamics(evaluator: Evaluator, module: nn.Module, kept: SourceResult) -> tuple[OrderEffect, ...]:
    """Effect of every frame order on a head whose result in the true order is `kept`."""
    return tuple(
        order_effect(order, kept, evaluator.reordered(module, kept.split, kept.source, order)) for order in ORDERS
    )


def order_effect(frame_order: str, kept: SourceResult, changed: SourceResult) -> OrderEffect:
    """Scores of `changed` beside `kept`, on the samples that both could read; DataError if there is none."""
    places = {sample: place for place, sample in enumerate(kept.sample_ids)}
    # A damaged frame may be one that a frozen clip does not show.
    both = [number for number, sample in enumerate(changed.sample_ids) if sample in places]
    if not both:
        raise DataError(f"source {kept.source}: no sample could be read in both frame orders")
    before = kept.probabilities[[places[changed.sample_ids[number]] for number in both]].argmax(1)
    after, labels = changed.probabilities[both].argmax(1), np.asarray(changed.labels)[both]
    classes = kept.scores.classes
    return OrderEffect(
        frame_order=frame_order,
        scores=scores(labels, after, classes),
        drop=paired_bootstrap(after, before, labels, classes=len(classes)),
    )
