"""How often training draws each class of a head: the prior that its classifier learns beside the evidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from s4d.data.plan import draw_shares
from s4d.data.sources import Source
from s4d.errors import UsageError


def class_priors(sources: Sequence[Source]) -> dict[str, tuple[float, ...]]:
    """Expected share of each class in the targets of a training draw, in head order, for every source.

    Weighted sampling counts, and so do shares of votes where they are the targets; smoothing and mixing do not. They
    come from the whole training split, so they are the same on every rank. UsageError for a class without a sample.
    """
    priors = {}
    for source in sources:
        classes, labels = len(source.classes), np.asarray(source.labels)
        targets = np.eye(classes)[labels] if source.shares is None else np.asarray(source.shares)
        shares = draw_shares(labels, source.config.sampling) @ targets
        if shares.min() <= 0:
            name = source.classes[int(shares.argmin())]
            raise UsageError(
                f"loss.logit_adjustment: class {name!r} of head {source.config.name} has no training sample, "
                "so its share has no log"
            )
        priors[source.config.name] = tuple(float(share) for share in shares)
    return priors
