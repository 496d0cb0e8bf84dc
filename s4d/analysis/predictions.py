"""What a classifier said of every view of every sample: the records of `predictions.npz`, written and read.

Letters: n samples, V views, K classes.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from s4d.errors import DataError

MODALITIES = ("image", "video")
FIELDS = {"logits": "f", "labels": "i", "sample_ids": "U", "classes": "U", "modality": "U", "split": "U"}
# All that numpy and zipfile raise at bytes that are not what they should be.
BROKEN = (
    OSError,
    ValueError,
    EOFError,
    BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    TokenError,
    MemoryError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """One head on one split: `labels` (n,) are numbers into `classes`, `logits` (n, V, K) float32.

    A view that could not be read is a row of NaN; a sample without one readable view is not among the n.
    """

    source: str
    modality: str
    split: str
    classes: tuple[str, ...]
    sample_ids: tuple[str, ...]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]

    def __post_init__(self) -> None:
        samples, classes = len(self.sample_ids), len(self.classes)
        if self.modality not in MODALITIES:
            raise ValueError(f"modality: expected one of {', '.join(MODALITIES)}, got {self.modality!r}")
        for name, values in (("classes", self.classes), ("sample_ids", self.sample_ids)):
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name}: expected names that differ, got {len(set(values))} in {len(values)} entries")
        if self.logits.ndim != 3 or self.logits.shape[::2] != (samples, classes) or not self.logits.shape[1]:
            raise ValueError(f"logits: expected ({samples}, views, {classes}), got {self.logits.shape}")
        if self.labels.shape != (samples,):
            raise ValueError(f"labels: expected ({samples},), got {self.labels.shape}")
        if not 0 <= self.labels.min() <= self.labels.max() < classes:
            raise ValueError(f"labels: expected 0..{classes - 1}, got {self.labels.min()}..{self.labels.max()}")
        finite: NDArray[np.bool_] = np.isfinite(self.logits)
        read: NDArray[np.bool_] = np.all(finite, axis=2)
        torn = ~read & ~np.all(np.isnan(self.logits), axis=2)
        faulty: NDArray[np.bool_] = np.any(torn, axis=1) | ~np.any(read, axis=1)
        if np.any(faulty):
            name = self.sample_ids[int(np.argmax(faulty))]
            raise ValueError(f"logits: sample {name!r}: expected views of finite numbers or of NaN, and one to read")

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Mean over the readable views of the softmax of each, (n, K)."""
        return mean_over_views(view_probabilities(self.logits))


def view_probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax of each view, (n, V, K) in float64; rows of NaN stay so."""
    values = np.asarray(logits, dtype=np.float64)
    weights = np.exp(values - values.max(2, keepdims=True))
    shares: NDArray[np.float64] = weights / weights.sum(2, keepdims=True)
    return shares


def mean_over_views(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of (n, V, K) over the views that are not NaN, (n, K); every sample must have one."""
    read: NDArray[np.bool_] = ~np.any(np.isnan(values), axis=2)
    total: NDArray[np.float64] = np.where(read[:, :, None], values, 0.0).sum(1)
    return total / read.sum(1)[:, None]


def predictions_npz(heads: Iterable[Predictions]) -> bytes:
    """Content of a predictions.npz: `<source>/<field>` for each source and each of `FIELDS`."""
    arrays: dict[str, NDArray[Any]] = {}
    for head in heads:
        fields: dict[str, NDArray[Any]] = {
            "logits": head.logits.astype(np.float32),
            "labels": head.labels.astype(np.int64),
            "sample_ids": np.array(head.sample_ids, dtype=np.str_),
            "classes": np.array(head.classes, dtype=np.str_),
            "modality": np.array(head.modality),
            "split": np.array(head.split),
        }
        arrays |= {f"{head.source}/{name}": values for name, values in fields.items()}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def read_predictions(path: Path) -> dict[str, Predictions]:
    """Predictions by source name; DataError names the file, and the source and field that are not as they should be."""
    if not path.is_file():
        raise DataError(f"{path}: no such file: the run was not evaluated, or before predictions were kept in full")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except BROKEN as error:
        raise DataError(f"{path}: not a readable npz file") from error
    sources = list(dict.fromkeys(name.partition("/")[0] for name in arrays))
    if not sources:
        raise DataError(f"{path}: holds no source")
    return {source: _head(path, source, arrays) for source in sources}


def _head(path: Path, source: str, arrays: Mapping[str, NDArray[Any]]) -> Predictions:
    values = {}
    for field, kind in FIELDS.items():
        array = arrays.get(f"{source}/{field}")
        if array is None:
            raise DataError(f"{path}: {source}/{field}: is missing")
        if array.dtype.kind != kind or array.ndim != {"logits": 3, "modality": 0, "split": 0}.get(field, 1):
            raise DataError(f"{path}: {source}/{field}: unexpected type {array.dtype} or shape {array.shape}")
        values[field] = array
    try:
        return Predictions(
            source=source,
            modality=str(values["modality"]),
            split=str(values["split"]),
            classes=tuple(values["classes"].tolist()),
            sample_ids=tuple(values["sample_ids"].tolist()),
            labels=values["labels"].astype(np.int64),
            logits=values["logits"].astype(np.float32),
        )
    except ValueError as error:
        raise DataError(f"{path}: {source}/{error}") from error
