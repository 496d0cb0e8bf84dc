"""How far the gradients of two tasks agree, from inner products of the gradients of disjoint batches.

Letters: P pairs of batches. The four gradients of a pair are those of two batches of images and two of clips.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Places of a pair's gradients in its table of inner products.
IMAGES, CLIPS = (0, 1), (2, 3)

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Cosine between the tasks' gradients over batches, and what it is to be read against; NaN where undefined.

    `cosine`, `deviation` (sample standard deviation) and `negative_share` are over the `batches` in which both tasks
    have a gradient at all. `norm_ratio` is the geometric mean of |clips| / |images|. `images` and `clips` are mean
    cosines between two batches of one task, the ceiling that noise leaves; `corrected` is the cosine between the tasks'
    expected gradients, estimated without the noise of the batches (it can leave -1..1 by chance, and is NaN where the
    batches of a task do not agree among themselves).
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


def agreement(products: Floats) -> Agreement:
    """From inner products (P, 4, 4) in the order images, images, clips, clips."""
    if products.ndim != 3 or products.shape[1:] != (4, 4):
        raise ValueError(f"products: expected (pairs, 4, 4), got {products.shape}")
    across = np.concatenate([_cosines(products, image, clip) for image, clip in zip(IMAGES, CLIPS, strict=True)])
    across = across[~np.isnan(across)]
    squares = np.einsum("pii->pi", products)
    both = (squares > 0).all(1)
    ratios = np.log(squares[both][:, CLIPS] / squares[both][:, IMAGES]) / 2
    return Agreement(
        cosine=_mean(across),
        deviation=float(across.std(ddof=1)) if len(across) > 1 else float("nan"),
        negative_share=_mean(across < 0),
        batches=len(across),
        norm_ratio=float(np.exp(_mean(ratios))),
        images=_mean(_defined(_cosines(products, *IMAGES))),
        clips=_mean(_defined(_cosines(products, *CLIPS))),
        corrected=_corrected(products),
    )


def _corrected(products: Floats) -> float:
    """Products of different batches have no noise in common, so their means estimate those of expected gradients."""
    within = products[:, IMAGES[0], IMAGES[1]].mean() * products[:, CLIPS[0], CLIPS[1]].mean()
    if products[:, IMAGES[0], IMAGES[1]].mean() <= 0 or within <= 0:
        return float("nan")
    return float(products[:, :2, 2:].mean() / np.sqrt(within))


def _cosines(products: Floats, first: int, second: int) -> Floats:
    """Cosine in each pair; NaN where one of the two gradients is zero."""
    lengths = np.sqrt(products[:, first, first] * products[:, second, second])
    with np.errstate(invalid="ignore", divide="ignore"):
        values: Floats = np.where(lengths > 0, products[:, first, second] / lengths, np.nan)
    return values


def _defined(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if values.size else float("nan")
