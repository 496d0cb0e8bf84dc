"""CAER: whole scenes as `{train,validation,test}/<Emotion>/0001.avi`; faces have to be found in them."""

from __future__ import annotations

import os
from pathlib import Path

from s4d.data.manifest import ManifestRow
from s4d.data.media import VIDEO_SUFFIXES
from s4d.datasets import CLASS_NAMES
from s4d.datasets.emotion_folders import base_of, find_media
from s4d.datasets.listing import identity_of, read_identities
from s4d.datasets.request import Request
from s4d.errors import DataError

NAMES = ("CAER",)
SPLITS = {"train": "train", "validation": "val", "test": "test"}


def prepare(root: Path, request: Request) -> list[ManifestRow]:
    """One row per clip; `validation` becomes the split `val`. DataError names the folder that is missing or unknown."""
    request.refuse("caer", "fold")
    base = base_of(root, NAMES, request.media)
    identities = read_identities(root)
    rows = []
    for found in find_media(root, base, SPLITS, CLASS_NAMES["caer"], VIDEO_SUFFIXES):
        sample_id = os.path.splitext(found.path.removeprefix(f"{base}/"))[0]
        rows.append(
            ManifestRow(
                sample_id=sample_id,
                path=found.path,
                kind="video",
                dataset="caer",
                split=found.split,
                label=found.label,
                identity=identity_of(identities, sample_id, found.path),
            )
        )
    if not rows:
        raise DataError(f"{root / base}: no clips; expected train/<Emotion>/0001.avi below it")
    return rows
