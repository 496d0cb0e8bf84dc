"""Reads what an evaluation left in a run folder: scores, expert loads, reconstructions. Broken files are DataErrors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

import numpy as np

from s4d.analysis.class_scores import HeadScores
from s4d.analysis.curves import is_number
from s4d.analysis.reconstruction_grid import ROWS, Reconstructions
from s4d.analysis.routing_maps import Routing
from s4d.errors import DataError

MODALITIES = ("image", "video")
Record = TypeVar("Record")


def read_json(path: Path) -> dict[str, object]:
    """A JSON object, empty if the file is not there."""
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(document).__name__}")
    return document


def read_scores(path: Path) -> list[HeadScores]:
    """Heads of an evaluation.json, images before videos."""

    def head(source: str, entry: Mapping[str, object]) -> HeadScores:
        return HeadScores(
            source=source,
            modality=str(entry["modality"]),
            classes=_names(entry["classes"]),
            confusion=np.asarray(entry["confusion"], dtype=np.int64),
            frame_uar=_floats(entry.get("frame_uar", [])),
            numbers={key: value for key, value in entry.items() if is_number(value)},
        )

    return sorted(_sources(path, head), key=lambda head: head.modality)


def read_routings(path: Path) -> list[Routing]:
    """Expert loads of a routing.json, images before videos."""
    document = read_json(path)

    def routing(source: str, entry: Mapping[str, object]) -> Routing:
        layers = document["layers"]
        if not isinstance(layers, list):
            raise ValueError(f"expected a list of layers, got {layers!r}")
        return Routing(
            source=source,
            modality=str(entry["modality"]),
            layers=tuple(int(layer) for layer in layers),
            classes=_names(entry["classes"]),
            counts=np.asarray(entry["counts"], dtype=np.int64),
        )

    return sorted(_sources(path, routing), key=lambda routing: routing.modality)


def read_reconstructions(path: Path) -> list[Reconstructions]:
    """Samples of each modality in a reconstructions.npz with arrays `image_input`, `image_masked`, ..."""
    if not path.is_file():
        return []
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [
                Reconstructions(modality=modality, **{name: arrays[f"{modality}_{name}"] for name in ROWS})
                for modality in MODALITIES
                if f"{modality}_{ROWS[0]}" in arrays
            ]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        problem = _reason(error) if isinstance(error, KeyError) else "not a readable npz file"
        raise DataError(f"{path}: {problem}") from error


def _sources(path: Path, build: Callable[[str, Mapping[str, object]], Record]) -> list[Record]:
    """One record for each entry of `sources`; DataError names the entry that is not as it should be."""
    document = read_json(path)
    sources = document.get("sources") if document else {}
    if not isinstance(sources, dict):
        raise DataError(f"{path}: sources: expected an object, got {type(sources).__name__}")
    records = []
    for name, entry in sources.items():
        try:
            records.append(build(name, entry))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: sources.{name}: {_reason(error)}") from error
    return records


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list of class names, got {value!r}")
    return tuple(str(name) for name in value)


def _floats(value: object) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list of numbers, got {value!r}")
    return tuple(float(number) for number in value)


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
