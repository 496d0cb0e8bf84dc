"""AffectNet's classic distribution: `training.csv` and `validation.csv` beside `Manually_Annotated_Images`.

Each row has a path, the face's box (left, top, width, height), 68 points as `x;y;x;y;...`, the code of the expression,
valence and arousal. A copy of `validation.csv` without a header line goes around; it is read by position.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path

from s4d.data.manifest import ManifestRow
from s4d.datasets import CLASS_NAMES
from s4d.datasets.affectnet_codes import kept_label, tell_left_out
from s4d.datasets.landmarks import five_points
from s4d.datasets.listing import (
    Entry,
    LabelFile,
    identity_of,
    inner_path,
    place,
    read_identities,
    read_table,
    refuse_empty,
    refuse_missing,
    refuse_overlap,
    refuse_repeats,
)
from s4d.datasets.request import Request
from s4d.datasets.tree import MediaFolder, media_folder
from s4d.errors import DataError

logger = logging.getLogger(__name__)

FILES = {"train": "training.csv", "test": "validation.csv"}
FOLDERS = ("", "Manually_Annotated_file_lists", "Manually_Annotated")
MEDIA = ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images")
NAME, EXPRESSION, LANDMARKS = "subDirectory_filePath", "expression", "facial_landmarks"
BOX = ("face_x", "face_y", "face_width", "face_height")
COLUMNS = (NAME, *BOX, LANDMARKS, EXPRESSION, "valence", "arousal")

Faces = dict[str, tuple[tuple[int, int, int, int] | None, tuple[float, ...] | None]]


def is_here(root: Path) -> bool:
    """Whether one of the two tables lies in `root` or in the folder it was packed in."""
    return any((root / folder / name).is_file() for folder in FOLDERS for name in FILES.values())


def read(root: Path, dataset: str, request: Request) -> list[ManifestRow]:
    """One row per image of the dataset's classes; DataError names table, line and field."""
    faces: Faces = {}
    files = []
    for split, name in FILES.items():
        path = next((root / folder / name for folder in FOLDERS if (root / folder / name).is_file()), None)
        if path is None:
            raise DataError(f"{root}: no {name} (looked in {', '.join(folder or '.' for folder in FOLDERS)})")
        files.append(_read_file(path, split, CLASS_NAMES[dataset], faces))
    train, test = files
    refuse_overlap(train, test)
    base = media_folder(root, MEDIA, request.media, "folder of images")
    media = MediaFolder(base)
    inside = base.relative_to(root).as_posix()
    identities = read_identities(root)
    rows = []
    for file in files:
        missing = [(entry.line, entry.name) for entry in file.entries if media.what(entry.name) != "file"]
        refuse_missing(file.path, missing, len(file.entries), NAME)
        for entry in file.entries:
            box, points = faces[entry.name]
            image = f"{inside}/{entry.name}"
            rows.append(
                ManifestRow(
                    sample_id=entry.name,
                    path=image,
                    kind="image",
                    dataset=dataset,
                    split=file.split,
                    label=entry.label,
                    identity=identity_of(identities, entry.name, image),
                    frame_count=1,
                    face_box=box,
                    face_points=points,
                )
            )
    return rows


def _read_file(path: Path, split: str, classes: tuple[str, ...], faces: Faces) -> LabelFile:
    """The kept rows of one table; boxes and points go to `faces`."""
    left_out: Counter[str] = Counter()
    without: Counter[str] = Counter()
    entries = []
    for line, row in _table(path):
        label = kept_label(row[EXPRESSION], classes, place(path, line, EXPRESSION), left_out)
        if label is None:
            continue
        name = inner_path(row[NAME], place(path, line, NAME))
        entries.append(Entry(line, name, label))
        box, points = _box(path, line, row), _points(path, line, row)
        without["face box"] += box is None
        without["points"] += points is None
        faces[name] = box, points
    refuse_empty(path, entries)
    file = LabelFile(path=path, split=split, entries=tuple(entries), field=NAME)
    refuse_repeats(file)
    tell_left_out(path, left_out, classes)
    for what, count in without.items():
        if count:
            logger.warning("%s: %d of %d images have no %s", path, count, len(entries), what)
    return file


def _table(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open("rb") as stream:
            first = stream.readline().decode("utf-8", errors="replace").strip().split(",")
    except OSError as error:
        raise DataError(f"{path}: not a readable text file: {error.strerror or error}") from error
    if len(first) == len(COLUMNS) and first[COLUMNS.index(EXPRESSION)].isdecimal():
        logger.warning("%s: has no header line; read as %s", path, ",".join(COLUMNS))
        return read_table(path, required=COLUMNS, header=COLUMNS)
    return read_table(path, required=COLUMNS)


def _box(path: Path, line: int, row: dict[str, str]) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom; None for a box without extent, which says that no face was found."""
    numbers = []
    for name in BOX:
        try:
            numbers.append(int(row[name]))
        except ValueError as error:
            raise DataError(f"{place(path, line, name)}: expected pixels, got {row[name]!r}") from error
    left, top, width, height = numbers
    return (left, top, left + width, top + height) if width > 0 and height > 0 else None


def _points(path: Path, line: int, row: dict[str, str]) -> tuple[float, ...] | None:
    """Five of the 68 points; None for an empty field."""
    if not row[LANDMARKS]:
        return None
    try:
        numbers = [float(part) for part in row[LANDMARKS].split(";") if part]
        if not all(math.isfinite(value) for value in numbers):
            raise ValueError("a coordinate is not finite")
        return five_points(numbers)
    except ValueError as error:
        raise DataError(f"{place(path, line, LANDMARKS)}: {error}") from error
