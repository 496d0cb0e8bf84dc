"""(b) What the two tasks share inside the model: class centroids, and layers compared by CKA.

Letters: n samples, L blocks, D width, S shared classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4d.analysis.correlation.classes import class_permutations, share_as_large
from s4d.analysis.correlation.features import Observed, same_samples
from s4d.analysis.correlation.similarity import Cka, linear_cka

PAIRINGS = 5
SHOWN = {
    "images": "images",
    "frames": "frames of clips",
    "clips": "clips",
    "stilled": "stilled images",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CentroidAlignment:
    """Cosines (S, S) between centred class centroids, static rows and dynamic columns, of classes that both have.

    `contrast` is the mean of the diagonal less the mean beside it; `p_value` the share of orders of the classes under
    which it would be as large.
    """

    classes: tuple[str, ...]
    cosines: NDArray[np.float64]
    diagonal: float
    off_diagonal: float
    contrast: float
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "classes": list(self.classes),
            "cosines": self.cosines.tolist(),
            "diagonal": self.diagonal,
            "off_diagonal": self.off_diagonal,
            "contrast": self.contrast,
            "p_value": self.p_value,
        }


def class_centroids(features: NDArray[np.floating], numbers: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Mean features (S, D) of each class less the mean of those means, so that frequent classes weigh no more."""
    values = features.astype(np.float64)
    means = np.array([values[numbers == number].mean(0) for number in range(classes)])
    return np.asarray(means - means.mean(0))


def align_centroids(
    static: NDArray[np.float64], dynamic: NDArray[np.float64], names: Sequence[str]
) -> CentroidAlignment:
    """Compare centred centroids (S, D) of both tasks, classes in the same order."""
    cosines = _unit(static) @ _unit(dynamic).T
    same = np.eye(len(names), dtype=np.bool_)
    diagonal, off_diagonal = float(cosines[same].mean()), float(cosines[~same].mean())
    # The sum over all pairs is the same under every order, so the diagonal alone ranks contrasts.
    orders = class_permutations(len(names))
    under_orders = cosines[np.arange(len(names)), orders].mean(1)
    return CentroidAlignment(
        classes=tuple(names),
        cosines=cosines,
        diagonal=diagonal,
        off_diagonal=off_diagonal,
        contrast=diagonal - off_diagonal,
        p_value=share_as_large(under_orders),
    )


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class CentroidStudy:
    """Alignment of the features that heads see, and its contrast after every block."""

    pooled: CentroidAlignment
    by_layer: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.pooled.to_dict(), "contrast_by_layer": list(self.by_layer)}


def centroid_study(static: Observed, dynamic: Observed, shared: Sequence[str]) -> CentroidStudy | None:
    """Centroids of the shared classes with samples on both sides; None if these are fewer than three.

    Two centred centroids point in opposite directions whatever the features are.
    """
    names = [name for name in shared if name in static.labels and name in dynamic.labels]
    if len(names) < 3:
        return None
    numbers = static.numbers(names), dynamic.numbers(names)

    def aligned(first: NDArray[np.floating], second: NDArray[np.floating]) -> CentroidAlignment:
        static_centroids = class_centroids(first, numbers[0], len(names))
        return align_centroids(static_centroids, class_centroids(second, numbers[1], len(names)), names)

    return CentroidStudy(
        pooled=aligned(static.pooled, dynamic.pooled),
        by_layer=tuple(aligned(a, b).contrast for a, b in zip(static.blocks, dynamic.blocks, strict=True)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """CKA of two sides, each a run and what it was shown; `pairs` says which samples stand against which."""

    first: str
    second: str
    pairs: str
    cka: Cka

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"first": self.first, "second": self.second, "pairs": self.pairs, **self.cka.to_dict()}


def between_modalities(run: str, seen: Mapping[str, Observed]) -> list[Comparison]:
    """One model on the same samples as images and as clips."""
    images, frames, clips, stilled = (seen[name] for name in ("images", "frames", "clips", "stilled"))
    as_frames, as_clips = same_samples(frames, clips)
    as_images, as_stilled = same_samples(images, stilled)
    moving = clips.blocks[:, as_clips]
    pairs = (
        ("clips", "middle frame", "each clip and its middle frame", moving, frames.middle_blocks[:, as_frames]),
        ("clips", "mean of frames", "each clip and the mean over its frames", moving, frames.blocks[:, as_frames]),
        (
            "images",
            "stilled",
            "each image and the image held for a clip",
            images.blocks[:, as_images],
            stilled.blocks[:, as_stilled],
        ),
    )
    return [
        Comparison(first=f"{run}: {first}", second=f"{run}: {second}", pairs=pairing, cka=linear_cka(x, y))
        for first, second, pairing, x, y in pairs
    ]


def between_runs(first: str, second: str, showing: str, one: Observed, other: Observed) -> Comparison:
    """Two models on the same samples, shown in the same way."""
    rows = same_samples(one, other)
    return Comparison(
        first=f"{first}: {showing}",
        second=f"{second}: {showing}",
        pairs=f"the same {SHOWN[showing]}",
        cka=linear_cka(one.blocks[:, rows[0]], other.blocks[:, rows[1]]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedPairs:
    """Debiased CKA by layer of images against clips of the same class, and against clips drawn from all classes."""

    samples: int
    same_class: tuple[float, ...]
    any_class: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "samples": self.samples,
            "pairings": PAIRINGS,
            "same_class": list(self.same_class),
            "any_class": list(self.any_class),
        }


def matched_pairs(static: Observed, dynamic: Observed, shared: Sequence[str]) -> MatchedPairs | None:
    """Images and clips paired at random within their class, equally many of both; means over a few pairings.

    None where no class has samples on both sides.
    """
    curves: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    samples = 0
    for seed in range(PAIRINGS):
        generator = np.random.default_rng(seed)
        rows = _pairing(static.numbers(shared), dynamic.numbers(shared), len(shared), generator)
        if not len(rows[0]):
            return None
        shuffled = generator.permutation(rows[1])
        samples = len(rows[0])
        curves.append((_by_layer(static, dynamic, rows[0], rows[1]), _by_layer(static, dynamic, rows[0], shuffled)))
    same, anywhere = (tuple(float(v) for v in np.mean(values, axis=0)) for values in zip(*curves, strict=True))
    return MatchedPairs(samples=samples, same_class=same, any_class=anywhere)


def _pairing(
    first: NDArray[np.int64], second: NDArray[np.int64], classes: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of both sides: of each class as many as the side with fewer has."""
    rows: tuple[list[int], list[int]] = ([], [])
    for number in range(classes):
        groups = [generator.permutation(np.flatnonzero(side == number)) for side in (first, second)]
        size = min(len(group) for group in groups)
        for kept, group in zip(rows, groups, strict=True):
            kept.extend(group[:size].tolist())
    return np.array(rows[0], dtype=np.int64), np.array(rows[1], dtype=np.int64)


def _by_layer(
    static: Observed, dynamic: Observed, first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float64]:
    values = [
        linear_cka(x[None, first], y[None, second]).debiased[0, 0]
        for x, y in zip(static.blocks, dynamic.blocks, strict=True)
    ]
    return np.array(values)
