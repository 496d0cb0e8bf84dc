"""Readers of datasets as they lie on disk: each turns a tree into manifest rows with class names."""

from __future__ import annotations

# name -> `prepare(root: Path, request: Request) -> list[ManifestRow]`
DATASETS: dict[str, str] = {
    "affectnet": "s4d.datasets.affectnet.prepare",
    "dfew": "s4d.datasets.dfew.prepare",
    "ferv39k": "s4d.datasets.ferv39k.prepare",
    "folder": "s4d.datasets.folder.prepare",
    "mafw": "s4d.datasets.mafw.prepare",
    "mafw_compound": "s4d.datasets.mafw.prepare_compound",
    "voxceleb2": "s4d.datasets.voxceleb2.prepare",
}

# Class names in head order; empty where there are no labels or where the data name their own classes.
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "affectnet": ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger"),
    "dfew": ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear"),
    "ferv39k": ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    "folder": (),
    "mafw": (
        "anger",
        "anxiety",
        "contempt",
        "disappointment",
        "disgust",
        "fear",
        "happiness",
        "helplessness",
        "neutral",
        "sadness",
        "surprise",
    ),
    "mafw_compound": (),
    "voxceleb2": (),
}
