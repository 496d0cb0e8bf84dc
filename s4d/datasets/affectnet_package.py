"""AffectNet's newer package: `train_set` and `val_set`, each with `images/N.jpg` and `annotations/N_exp.npy`.

Beside the expression lie valence (`_val`), arousal (`_aro`) and 68 points (`_lnd`) of each image. Numbers start anew in
each folder, so a sample is named after folder and number. The images are cut-out faces: there is no box.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np

from s4d.data.manifest import ManifestRow
from s4d.data.media import IMAGE_SUFFIXES, natural_key
from s4d.datasets import CLASS_NAMES
from s4d.datasets.affectnet_codes import kept_label, tell_left_out
from s4d.datasets.landmarks import five_points
from s4d.datasets.listing import NAMED, folder_among, identity_of, read_identities
from s4d.datasets.request import Request
from s4d.datasets.small_arrays import load_each, load_small
from s4d.datasets.tree import MediaFolder
from s4d.errors import DataError

logger = logging.getLogger(__name__)

FOLDERS = {"train": ("train_set",), "test": ("val_set", "valid_set")}
CODE, POINTS = "_exp.npy", "_lnd.npy"


def is_here(root: Path) -> bool:
    """Whether one of the folders lies in `root`."""
    return any((root / name).is_dir() for names in FOLDERS.values() for name in names)


def read(root: Path, dataset: str, request: Request) -> list[ManifestRow]:
    """One row per image of the dataset's classes; DataError names the file that is missing or wrong."""
    request.refuse(dataset, "media")
    identities = read_identities(root)
    rows = []
    for split, names in FOLDERS.items():
        rows += _read_folder(folder_among(root, names, f"folder of the {split} part"), dataset, split, identities)
    return rows


def _read_folder(folder: Path, dataset: str, split: str, identities: dict[str, str]) -> list[ManifestRow]:
    for name in ("images", "annotations"):
        folder_among(folder, [name], f"folder {name}")
    images = _images(folder)
    annotations = folder / "annotations"
    classes = CLASS_NAMES[dataset]
    left_out: Counter[str] = Counter()
    labels = {}
    codes = load_each([f"{annotations}/{key}{CODE}" for key in images], _code)
    for key, code in zip(images, codes, strict=True):
        label = kept_label(code, classes, f"{annotations}/{key}{CODE}", left_out)
        if label is not None:
            labels[key] = label
    tell_left_out(folder, left_out, classes)
    if not labels:
        raise DataError(f"{folder}: no image of the classes {', '.join(classes)}")
    listed = set(MediaFolder(annotations).files(frozenset({".npy"})))
    with_points = [key for key in labels if key + POINTS in listed]
    if len(with_points) < len(labels):
        logger.warning("%s: %d of %d images have no points", folder, len(labels) - len(with_points), len(labels))
    found = load_each([f"{annotations}/{key}{POINTS}" for key in with_points], _points)
    points = dict(zip(with_points, found, strict=True))
    return [
        ManifestRow(
            sample_id=f"{folder.name}/{key}",
            path=f"{folder.name}/images/{images[key]}",
            kind="image",
            dataset=dataset,
            split=split,
            label=label,
            identity=identity_of(identities, f"{folder.name}/{key}", f"{folder.name}/images/{images[key]}"),
            frame_count=1,
            face_points=points.get(key),
        )
        for key, label in labels.items()
    ]


def _images(folder: Path) -> dict[str, str]:
    """Number -> file name of each image, in counting order; images and codes must be there in pairs."""
    images: dict[str, str] = {}
    for name in sorted(MediaFolder(folder / "images").files(IMAGE_SUFFIXES), key=natural_key):
        key = os.path.splitext(name)[0]
        if key in images:
            raise DataError(f"{folder / 'images'}: two images of one name: {images[key]} and {name}")
        images[key] = name
    annotated = {name[: -len(CODE)] for name in MediaFolder(folder / "annotations").entries() if name.endswith(CODE)}
    for lonely, what in (
        (sorted(images.keys() - annotated, key=natural_key), f"images have no annotations/N{CODE}"),
        (sorted(annotated - images.keys(), key=natural_key), "annotations have no image"),
    ):
        if lonely:
            more = ", ..." if len(lonely) > NAMED else ""
            raise DataError(f"{folder}: {len(lonely)} {what}: {', '.join(lonely[:NAMED])}{more}")
    if not images:
        raise DataError(f"{folder / 'images'}: no images")
    return images


def _code(path: str) -> str:
    """The code of the expression as text; the package stores it as text, copies of it as a number."""
    values = load_small(path)
    if values.size != 1:
        raise DataError(f"{path}: expected one code, got {values.size} values")
    text = str(values[0])
    return text.removesuffix(".0")


def _points(path: str) -> tuple[float, ...]:
    values = load_small(path)
    try:
        numbers = values.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError("a coordinate is not finite")
        return five_points(numbers.tolist())
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
