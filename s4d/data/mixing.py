"""Mixup and cutmix: what is drawn for a pair (or a whole step), and the soft targets that follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s4d.config_data import MixConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class MixDraw:
    """`lam` is the share of a sample's own pixels, after a cutmix `box` [y0, x0, y1, x1) has met the border."""

    lam: float
    box: tuple[int, int, int, int] | None


def draw_mix(rng: np.random.Generator, mix: MixConfig, size: int) -> MixDraw:
    """Mixup or cutmix (one of them with certainty) for frames of `size` pixels a side."""
    cut = mix.cutmix_alpha > 0 and (mix.mixup_alpha == 0 or rng.random() < mix.switch_probability)
    if not cut:
        return MixDraw(lam=float(rng.beta(mix.mixup_alpha, mix.mixup_alpha)), box=None)
    side = int(size * math.sqrt(1 - rng.beta(mix.cutmix_alpha, mix.cutmix_alpha)))
    y, x = int(rng.integers(size)), int(rng.integers(size))
    y0, y1 = max(0, y - side // 2), min(size, y + side // 2)
    x0, x1 = max(0, x - side // 2), min(size, x + side // 2)
    return MixDraw(lam=1 - (y1 - y0) * (x1 - x0) / size**2, box=(y0, x0, y1, x1))


def soft_targets(labels: NDArray[np.int64], classes: int, smoothing: float) -> NDArray[np.float32]:
    """One-hot rows (m, classes) with `smoothing` spread evenly over all classes."""
    return smooth(np.eye(classes)[labels], smoothing)


def smooth(shares: NDArray[np.float64], smoothing: float) -> NDArray[np.float32]:
    """Rows (m, classes) that add up to 1, with the part `smoothing` of each spread evenly over all classes."""
    return ((1 - smoothing) * shares + smoothing / shares.shape[1]).astype(np.float32)


def mix_targets(targets: NDArray[np.float32], lam: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row with its neighbour's (row i with row i ^ 1) in shares lam and 1 - lam."""
    partner = np.arange(len(targets)) ^ 1
    return lam[:, None] * targets + (1 - lam[:, None]) * targets[partner]
