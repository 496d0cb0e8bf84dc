"""What `pictures.npz` holds, and how it is written and read.

Letters: n mapped samples, m drawn samples, F frames, S temporal slices, R rows and C columns of patches, K classes,
L MoAE layers, E experts.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4d.analysis.predictions import BROKEN
from s4d.atomic_files import write_atomically
from s4d.errors import DataError
from s4d.json_text import to_json

PICTURES_FILE = "pictures.npz"
INDEX = "index"
FIELDS = ("probabilities", "frames", "relevance", "slice_probabilities", "experts", "expert_counts")

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A sample that is drawn: its true and predicted class, and by which rule it was chosen."""

    sample_id: str
    label: str
    prediction: str
    rule: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePictures:
    """Drawn samples of one source and where its experts work.

    `probabilities` (m, K) of the whole view; `frames` uint8 (m, F, H, W, 3); `relevance` (m, S, R, C) of each patch by
    attention rollout, adding up to 1 per sample; `slice_probabilities` (m, S, K) of each temporal slice alone;
    `experts` (m, L, S, R, C): each patch's first choice; `expert_counts` (L, R, C, E): how often the patches at each
    place had each expert as first choice, over the slices of all `samples` test samples that could be read. Without
    experts L and E are 0.
    """

    source: str
    modality: str
    classes: tuple[str, ...]
    samples: int
    unreadable: int
    layers: tuple[int, ...]
    drawn: tuple[Drawn, ...]
    probabilities: NDArray[np.float32]
    frames: NDArray[np.uint8]
    relevance: NDArray[np.float32]
    slice_probabilities: NDArray[np.float32]
    experts: NDArray[np.int16]
    expert_counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.relevance.ndim != 4 or self.frames.ndim != 5 or self.frames.shape[-1] != 3:
            raise ValueError(
                f"frames and relevance: expected (m, F, H, W, 3) and (m, S, R, C), got {self.frames.shape} and "
                f"{self.relevance.shape}"
            )
        drawn, slices, rows, columns = self.relevance.shape
        layers, experts, classes = len(self.layers), self.expert_counts.shape[-1], len(self.classes)
        expected = {
            "probabilities": (len(self.drawn), classes),
            "relevance": (len(self.drawn), slices, rows, columns),
            "slice_probabilities": (drawn, slices, classes),
            "experts": (drawn, layers, slices, rows, columns),
            "expert_counts": (layers, rows, columns, experts),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name}: expected {shape}, got {getattr(self, name).shape}")
        frames = self.frames.shape
        if frames[0] != drawn or not slices or frames[1] % slices or frames[2] % rows or frames[3] % columns:
            raise ValueError(f"frames: {frames} cannot be cut into {self.relevance.shape} patches")
        if self.experts.size and not 0 <= self.experts.min() <= self.experts.max() < experts:
            raise ValueError(f"experts: expected numbers of {experts} experts")

    @property
    def name(self) -> str:
        """Source and modality, for titles."""
        return f"{self.source} ({self.modality})"


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureMap:
    """Places (n, 2) of pooled features on a plane, and what lies near each other in the features' own space.

    `labels` (n,) are numbers into `classes`; `modalities` (n,) say 0 for images and 1 for videos. `numbers` are those
    of `s4d.analysis.pictures.tsne.neighbourhood`.
    """

    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    modalities: NDArray[np.int64]
    classes: tuple[str, ...]
    perplexity: float
    dim: int
    numbers: dict[str, float]

    def __post_init__(self) -> None:
        count = len(self.points)
        if self.points.shape != (count, 2) or self.labels.shape != (count,) or self.modalities.shape != (count,):
            raise ValueError(
                f"map: expected (n, 2), (n,) and (n,), got {self.points.shape}, {self.labels.shape} and "
                f"{self.modalities.shape}"
            )
        if not count or not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise ValueError(f"map: labels: expected numbers of {len(self.classes)} classes")
        if not np.isin(self.modalities, (0, 1)).all():
            raise ValueError("map: modalities: expected 0 or 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """All of it, and the name of the checkpoint that it was computed from."""

    checkpoint: str
    sources: tuple[SourcePictures, ...]
    features: FeatureMap | None


def write_pictures(path: Path, pictures: Pictures) -> None:
    """Replace `path` in one step."""
    arrays: dict[str, NDArray[Any]] = {}
    index: dict[str, Any] = {"checkpoint": pictures.checkpoint, "sources": {}, "features": None}
    for source in pictures.sources:
        arrays |= {f"{source.source}/{name}": getattr(source, name) for name in FIELDS}
        index["sources"][source.source] = {
            "modality": source.modality,
            "classes": list(source.classes),
            "samples": source.samples,
            "unreadable": source.unreadable,
            "layers": list(source.layers),
            "drawn": [{name: getattr(sample, name) for name in Drawn.__slots__} for sample in source.drawn],
        }
    if (features := pictures.features) is not None:
        arrays |= {f"map/{name}": getattr(features, name) for name in ("points", "labels", "modalities")}
        index["features"] = {name: getattr(features, name) for name in ("classes", "perplexity", "dim", "numbers")}
    content = io.BytesIO()
    np.savez_compressed(content, **{INDEX: np.array(to_json(index)), **arrays})  # type: ignore[arg-type]
    write_atomically(path, content.getvalue())


def read_pictures(path: Path) -> Pictures | None:
    """The pictures of a run, None if there are none; DataError names the file and what is wrong in it."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except BROKEN as error:
        raise DataError(f"{path}: not a readable npz file") from error
    try:
        index = json.loads(str(arrays[INDEX]))
        return Pictures(
            checkpoint=str(index["checkpoint"]),
            sources=tuple(_source(name, entry, arrays) for name, entry in index["sources"].items()),
            features=_features(index["features"], arrays) if index["features"] is not None else None,
        )
    except KeyError as error:
        raise DataError(f"{path}: {error} is missing") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: {error}") from error


def _source(name: str, entry: Mapping[str, Any], arrays: Arrays) -> SourcePictures:
    kinds = dict(zip(FIELDS, ("f", "u", "f", "f", "i", "i"), strict=True))
    values = {field: _array(arrays, f"{name}/{field}", kind) for field, kind in kinds.items()}
    try:
        return SourcePictures(
            source=name,
            modality=str(entry["modality"]),
            classes=tuple(str(value) for value in entry["classes"]),
            samples=int(entry["samples"]),
            unreadable=int(entry["unreadable"]),
            layers=tuple(int(layer) for layer in entry["layers"]),
            drawn=tuple(Drawn(**{key: str(sample[key]) for key in Drawn.__slots__}) for sample in entry["drawn"]),
            **values,
        )
    except ValueError as error:
        raise ValueError(f"{name}/{error}") from error


def _features(entry: Mapping[str, Any], arrays: Arrays) -> FeatureMap:
    return FeatureMap(
        points=_array(arrays, "map/points", "f"),
        labels=_array(arrays, "map/labels", "i"),
        modalities=_array(arrays, "map/modalities", "i"),
        classes=tuple(str(value) for value in entry["classes"]),
        perplexity=float(entry["perplexity"]),
        dim=int(entry["dim"]),
        numbers={str(key): float(value) for key, value in entry["numbers"].items()},
    )


def _array(arrays: Arrays, name: str, kind: str) -> NDArray[Any]:
    array = arrays[name]
    if array.dtype.kind != kind:
        raise ValueError(f"{name}: unexpected type {array.dtype}")
    return array
