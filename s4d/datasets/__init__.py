"""Readers of datasets as they lie on disk: each turns a tree into manifest rows with class names."""

from __future__ import annotations

# name -> `prepare(root: Path, request: Request) -> list[ManifestRow]`
DATASETS: dict[str, str] = {
    "affectnet": "s4d.datasets.affectnet.prepare",
    "affectnet8": "s4d.datasets.affectnet.prepare_eight",
    "caer": "s4d.datasets.caer.prepare",
    "caer_s": "s4d.datasets.caer_s.prepare",
    "celebv_hq": "s4d.datasets.celebv.prepare_hq",
    "celebv_text": "s4d.datasets.celebv.prepare_text",
    "dfew": "s4d.datasets.dfew.prepare",
    "ferv39k": "s4d.datasets.ferv39k.prepare",
    "ferplus": "s4d.datasets.ferplus.prepare",
    "ferplus_votes": "s4d.datasets.ferplus.prepare_votes",
    "folder": "s4d.datasets.folder.prepare",
    "mafw": "s4d.datasets.mafw.prepare",
    "mafw_compound": "s4d.datasets.mafw.prepare_compound",
    "rafdb": "s4d.datasets.rafdb.prepare",
    "voxceleb2": "s4d.datasets.voxceleb2.prepare",
}

# Class names in head order; empty where there are no labels or where the data name their own classes.
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "affectnet": ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger"),
    "affectnet8": ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"),
    "caer": ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    "caer_s": ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    "celebv_hq": ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"),
    "celebv_text": (),
    "dfew": ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear"),
    "ferplus": ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
    "ferplus_votes": ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
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
    "rafdb": ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"),
    "voxceleb2": (),
}
