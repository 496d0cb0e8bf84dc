"""Pooled features of both modalities on one plane, and what is near what in the features' own space.

t-SNE keeps neighbours together; distances between groups, and their sizes, mean nothing. The numbers beside it are
therefore taken from the features themselves. Letters: n samples, D width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEED = 0
NEIGHBOURS = 10
PERPLEXITY = 30.0
FEWEST = 5


def perplexity_for(samples: int) -> float:
    """The usual 30, or a third of the other samples where there are fewer than 91."""
    return min(PERPLEXITY, (samples - 1) / 3)


def embed(features: NDArray[np.float64]) -> NDArray[np.float32]:
    """Places (n, 2) of features (n, D), begun from their two principal components; the same for the same features."""
    from sklearn.manifold import TSNE

    model = TSNE(2, perplexity=perplexity_for(len(features)), init="pca", random_state=SEED)
    return np.asarray(model.fit_transform(features), dtype=np.float32)


def neighbourhood(
    features: NDArray[np.float64], labels: NDArray[np.int64], modalities: NDArray[np.int64]
) -> dict[str, float]:
    """Which samples lie near each other by Euclidean distance of the features (n, D), each share beside chance.

    `same_class`: share of a sample's nearest neighbours that have its class; `other_modality`: share that are of the
    other modality; `same_class_across`: share that have its class when only samples of the other modality are looked
    at; `..._chance`: the same if neighbours were drawn blindly. `silhouette`: by class, -1 to 1. What is not defined,
    such as a silhouette of one class, is left out.
    """
    from sklearn.metrics import silhouette_score

    distances = np.sqrt(np.maximum(0.0, _squared_distances(features)))
    others = ~np.eye(len(features), dtype=bool)
    same = labels[:, None] == labels[None]
    across = modalities[:, None] != modalities[None]
    found = {"neighbours": float(min(NEIGHBOURS, len(features) - 1))}
    found |= _shares("same_class", distances, same, others)
    if across.any():
        found |= _shares("other_modality", distances, across, others)
        found |= _shares("same_class_across", distances, same, across)
    if 2 <= len(np.unique(labels)) < len(labels):
        found["silhouette"] = float(silhouette_score(features, labels))
    return found


def _squared_distances(features: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.square(features).sum(1)
    table: NDArray[np.float64] = lengths[:, None] + lengths[None] - 2 * features @ features.T
    return table


def _shares(
    name: str, distances: NDArray[np.float64], wanted: NDArray[np.bool_], allowed: NDArray[np.bool_]
) -> dict[str, float]:
    """Mean over samples of the share of `wanted` among the nearest `allowed` ones, and among all allowed ones."""
    nearest, chance = [], []
    for row, hit, may in zip(distances, wanted, allowed, strict=True):
        places = np.flatnonzero(may)
        order = places[np.argsort(row[places], kind="stable")]
        nearest.append(hit[order[:NEIGHBOURS]].mean())
        chance.append(hit[order].mean())
    return {name: float(np.mean(nearest)), f"{name}_chance": float(np.mean(chance))}
