"""Made-up records of what a model makes of samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from s4d.analysis.correlation.features import Observed, Showing


def observed(
    name: str,
    labels: Sequence[str],
    *,
    head: str = "head",
    probabilities: NDArray[np.float64] | None = None,
    pooled: NDArray[np.float64] | None = None,
    blocks: NDArray[np.float64] | None = None,
    first: int = 0,
) -> Observed:
    """Samples numbered from `first`; one view, pooled features and blocks where they are not given."""
    pooled = np.zeros((len(labels), 4)) if pooled is None else pooled
    blocks = pooled[None] if blocks is None else blocks
    views = np.full((len(labels), 1, 2), 0.5) if probabilities is None else probabilities
    return Observed(
        showing=Showing(name=name, source="source", shown_as="image"),
        sample_ids=tuple(f"s{first + number}" for number in range(len(labels))),
        labels=tuple(labels),
        probabilities={head: views},
        pooled=pooled.astype(np.float32),
        blocks=blocks.astype(np.float32),
        middle_blocks=blocks.astype(np.float32),
        unreadable=0,
    )
