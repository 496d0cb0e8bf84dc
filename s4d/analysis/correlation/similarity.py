"""Linear centred kernel alignment (CKA) of two sets of features of the same samples.

With centred X (n, p) and Y (n, q), CKA = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)). The standard estimate of HSIC,
|X'Y|^2, is biased upwards when there are not many more samples than features; the unbiased one (Song et al. 2012, used
for CKA by Nguyen et al. 2021) is about 0 for independent features whatever n is, and may be slightly negative. Letters:
n samples, p and q features, L and M layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
# The unbiased estimate divides by n (n - 3).
FEWEST = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Cka:
    """Alignment of every layer of one side with every layer of the other, (L, M); NaN where it is not defined."""

    samples: int
    standard: NDArray[np.float64]
    debiased: NDArray[np.float64]

    @property
    def by_layer(self) -> NDArray[np.float64]:
        """The debiased alignment of layers of the same number."""
        return np.diagonal(self.debiased)

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "samples": self.samples,
            "by_layer": self.by_layer.tolist(),
            "debiased": self.debiased.tolist(),
            "standard": self.standard.tolist(),
        }


def linear_cka(first: Array, second: Array) -> Cka:
    """CKA of features (L, n, p) and (M, n, q) of the same n samples; ValueError for unequal n."""
    if first.ndim != 3 or second.ndim != 3 or first.shape[1] != second.shape[1]:
        raise ValueError(f"features: expected (L, n, p) and (M, n, q), got {first.shape} and {second.shape}")
    left, right = [_centred(layer) for layer in first], [_centred(layer) for layer in second]
    cross = np.array([[_hsic(x, y) for y in right] for x in left])
    own = np.array([_hsic(x, x) for x in left])[:, None], np.array([_hsic(y, y) for y in right])[None]
    # Below this the features do not vary, or (unbiased) not beyond noise, and their alignment with anything is not
    # defined.
    product = own[0] * own[1]
    valid = (own[0] > 0) & (own[1] > 0)
    values = np.where(valid, cross / np.sqrt(np.where(valid, product, 1.0)), np.nan)
    return Cka(samples=first.shape[1], standard=values[..., 0], debiased=values[..., 1])


def _centred(features: Array) -> NDArray[np.float64]:
    values = features.astype(np.float64)
    centred = values - values.mean(0)
    # What rounding leaves of a feature that is the same in all samples.
    centred[:, np.abs(centred).max(0) <= 1e-12 * np.abs(values).max(0)] = 0
    return np.asarray(centred)


def _hsic(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """The standard and the unbiased estimate, up to factors that cancel in CKA.

    The unbiased one is <K, L> + sum(K) sum(L) / ((n - 1)(n - 2)) - 2 / (n - 2) 1'KL1 with K and L the kernels without
    their diagonals, written in the features, so that no n x n matrix is made.
    """
    n = len(x)
    standard = float(np.square(x.T @ y).sum())
    if n < FEWEST:
        return standard, float("nan")
    k, m = np.square(x).sum(1), np.square(y).sum(1)
    # Centred features: the rows of the whole kernel add up to 0, so those without the diagonal to -k.
    unbiased = standard - k @ m + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m)
    return standard, float(unbiased)
