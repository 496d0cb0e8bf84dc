"""CAER-S: frames of CAER as `{train,test}/<Emotion>/0001.png`; the folders' capitals and spelling vary.

Lists of face boxes go around beside it, `train.txt` and `test.txt` with `path,number,left,top,right,bottom`; they are
read where they lie in the root. The path begins with the split or with the emotion; the number is not used, since
the folder is the label.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from s4d.data.manifest import ManifestRow
from s4d.data.media import IMAGE_SUFFIXES
from s4d.datasets import CLASS_NAMES
from s4d.datasets.emotion_folders import Found, base_of, find_media
from s4d.datasets.labels import canonical
from s4d.datasets.listing import identity_of, inner_path, place, read_columns, read_identities
from s4d.datasets.request import Request
from s4d.errors import DataError

logger = logging.getLogger(__name__)

NAMES = ("CAER-S", "CAER_S")
SPLITS = {"train": "train", "test": "test"}
BOX = ("left", "top", "right", "bottom")

Key = tuple[str, str, str]


def prepare(root: Path, request: Request) -> list[ManifestRow]:
    """One row per image; DataError names the folder that is missing or unknown, or list, line and field of a box."""
    request.refuse("caer_s", "fold")
    base = base_of(root, NAMES, request.media)
    media = list(find_media(root, base, SPLITS, CLASS_NAMES["caer_s"], IMAGE_SUFFIXES))
    if not media:
        raise DataError(f"{root / base}: no images; expected train/<Emotion>/0001.png below it")
    boxes = _boxes(root, base, media)
    identities = read_identities(root)
    rows = []
    for found in media:
        sample_id = os.path.splitext(found.path.removeprefix(f"{base}/"))[0]
        rows.append(
            ManifestRow(
                sample_id=sample_id,
                path=found.path,
                kind="image",
                dataset="caer_s",
                split=found.split,
                label=found.label,
                identity=identity_of(identities, sample_id, found.path),
                frame_count=1,
                face_box=boxes.get(_key(found)),
            )
        )
    return rows


def _key(found: Found) -> Key:
    return found.split, found.label, os.path.basename(found.path)


def _boxes(root: Path, base: str, media: list[Found]) -> dict[Key, tuple[int, int, int, int]]:
    boxes: dict[Key, tuple[int, int, int, int]] = {}
    for split in SPLITS:
        path = next(
            (root / folder / f"{split}.txt" for folder in ("", base) if (root / folder / f"{split}.txt").is_file()),
            None,
        )
        if path is None:
            continue
        images = {_key(found) for found in media if found.split == split}
        for line, (name, _, *cells) in read_columns(path, ("path", "number", *BOX), ","):
            parts = inner_path(name, place(path, line, "path")).split("/")
            key = (split, canonical(parts[-2]) if len(parts) > 1 else "", parts[-1])
            if key not in images:
                raise DataError(f"{place(path, line, 'path')}: {name!r} does not exist in the {split} part")
            if key in boxes:
                raise DataError(f"{place(path, line, 'path')}: {name!r} is listed twice")
            boxes[key] = _box(path, line, cells)
        listed = sum(key in boxes for key in images)
        if listed < len(images):
            logger.warning("%s: %d of %d images have no face box", path, len(images) - listed, len(images))
    return boxes


def _box(path: Path, line: int, cells: list[str]) -> tuple[int, int, int, int]:
    numbers = []
    for name, cell in zip(BOX, cells, strict=True):
        try:
            numbers.append(int(cell))
        except ValueError as error:
            raise DataError(f"{place(path, line, name)}: expected pixels, got {cell!r}") from error
    left, top, right, bottom = numbers
    if left >= right or top >= bottom:
        raise DataError(f"{place(path, line, 'right')}: the box {numbers} has no extent")
    return left, top, right, bottom
