"""How far the gradients of two tasks agree, from inner products of the gradients of disjoint batches.

Letters: P pairs of batches, m = 2 P batches of each task, no sample in two of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Places of a pair's gradients in its table of inner products.
IMAGES, CLIPS = (0, 1), (2, 3)
# How far, in standard errors, a ceiling must be above what chance gives to batches that have nothing in common.
LEAST_SIGNAL = 2.5

Floats = NDArray[np.float64]


class Products(NamedTuple):
    """Inner products of gradients over some weights: of each pair's four, and of the two tasks' sums over all batches.

    `pairs` (P, 4, 4) is in the order image, image, clip, clip batch, `sums` (2, 2) images before clips. Those of more
    weights are the sums of those of their parts.
    """

    pairs: Floats
    sums: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Cosine between the tasks' gradients over batches, and what it is to be read against; NaN where undefined.

    `cosine`, `deviation` (sample standard deviation) and `negative_share` are over the `batches` in which both tasks
    have a gradient at all. `norm_ratio` is the geometric mean of |clips| / |images|. `images` and `clips` are the
    cosine that two batches of one task have, over all pairs of them: the ceiling that noise leaves. `corrected` is the
    cosine between the tasks' expected gradients, estimated without the noise of the batches. It can leave -1..1 by
    chance, and is NaN where a ceiling is not LEAST_SIGNAL above 0: there is hardly an expected gradient to speak of.
    """

    cosine: float
    deviation: float
    negative_share: float
    batches: int
    norm_ratio: float
    images: float
    clips: float
    corrected: float

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain values for JSON; None for what is undefined."""
        values = dataclasses.asdict(self)
        return {name: None if value != value else value for name, value in values.items()}


def total(parts: Sequence[Products]) -> Products:
    """Products over all weights of the parts."""
    return Products(*(np.sum(tables, axis=0) for tables in zip(*parts, strict=True)))


def agreement(products: Products) -> Agreement:
    """Of the gradients with these inner products."""
    pairs = products.pairs
    if pairs.ndim != 3 or pairs.shape[1:] != (4, 4) or products.sums.shape != (2, 2):
        raise ValueError(f"products: expected (pairs, 4, 4) and (2, 2), got {pairs.shape} and {products.sums.shape}")
    across = np.concatenate([_cosines(pairs, image, clip) for image, clip in zip(IMAGES, CLIPS, strict=True)])
    across = _defined(across)
    squares = np.einsum("pii->pi", pairs)
    within, ceilings = _within(squares, products.sums)
    deviation = float(across.std(ddof=1)) if len(across) > 1 else float("nan")
    # Batches of different tasks show how cosines scatter; a ceiling is a mean over all pairs of a task's batches.
    least = LEAST_SIGNAL * deviation / math.sqrt(len(pairs) * (2 * len(pairs) - 1))
    is_heard = all(ceiling > least for ceiling in ceilings)
    both = (squares > 0).all(1)
    ratios = np.log(squares[both][:, CLIPS] / squares[both][:, IMAGES]) / 2
    return Agreement(
        cosine=_mean(across),
        deviation=deviation,
        negative_share=_mean(across < 0),
        batches=len(across),
        norm_ratio=float(np.exp(_mean(ratios))),
        images=ceilings[0],
        clips=ceilings[1],
        corrected=_corrected(len(pairs) * 2, products.sums, within) if is_heard else float("nan"),
    )


def _within(squares: Floats, sums: Floats) -> tuple[list[float], list[float]]:
    """Of each task the mean product of two of its batches, and what share of a batch's mean square that is.

    Different batches have no noise in common, so that the mean product estimates the square of the expected gradient.
    """
    batches = 2 * len(squares)
    own = [float(squares[:, places].sum()) for places in (IMAGES, CLIPS)]
    within = [float(sums[task, task] - own[task]) / (batches * (batches - 1)) for task in range(2)]
    shares = [
        product / (square / batches) if square else float("nan") for product, square in zip(within, own, strict=True)
    ]
    return within, shares


def _corrected(batches: int, sums: Floats, within: Sequence[float]) -> float:
    return float(sums[0, 1]) / batches**2 / math.sqrt(within[0] * within[1])


def _cosines(pairs: Floats, first: int, second: int) -> Floats:
    """Cosine in each pair; NaN where one of the two gradients is zero."""
    lengths = np.sqrt(pairs[:, first, first] * pairs[:, second, second])
    with np.errstate(invalid="ignore", divide="ignore"):
        values: Floats = np.where(lengths > 0, pairs[:, first, second] / lengths, np.nan)
    return values


def _defined(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if values.size else float("nan")
