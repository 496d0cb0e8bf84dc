"""DFEW: folders of frames and five folds of csv files, in the original form and in the one the S4D release ships.

The original files count classes from 1, the shipped ones from 0, both in the same order; which one a tree uses follows
from the values and is logged.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from s4d.data.manifest import ManifestRow
from s4d.data.media import list_frames
from s4d.datasets import CLASS_NAMES
from s4d.datasets.listing import folder_among, read_identities, read_table, refuse_missing
from s4d.errors import DataError, UsageError

logger = logging.getLogger(__name__)

MEDIA = ("Clip/jpg_256", "jpg_256")
LABELS = ("EmoLabel_DataSplit", ".")
FILE_NAME = re.compile(r"(?:(?:train|test)_)?set_(\d+)\.csv")


@dataclass(frozen=True, slots=True)
class _LabelFile:
    """One csv file of one fold: video name and class number of each row, with the line it stands in."""

    path: Path
    split: str
    fold: int
    rows: tuple[tuple[int, str, int], ...]


def prepare(root: Path, *, fold: int | None) -> list[ManifestRow]:
    """One row per clip and fold, all folds when `fold` is None; DataError names file, line and field."""
    media = folder_among(root, MEDIA, "folder of frame folders")
    files = _label_files(root, fold)
    first = _first_label(files)
    logger.info("%s: labels count from %d", files[0].path.parent, first)
    folders = {_clip_key(entry.name): entry for entry in sorted(media.iterdir()) if entry.is_dir()}
    identities = read_identities(root)
    counts: dict[str, int] = {}
    rows: list[ManifestRow] = []
    for file in files:
        missing = [name for _, name, _ in file.rows if _clip_key(name) not in folders]
        refuse_missing(file.path, missing, len(file.rows))
        for _, name, label in file.rows:
            folder = folders[_clip_key(name)]
            if folder.name not in counts:
                counts[folder.name] = len(list_frames(folder))
            path = folder.relative_to(root).as_posix()
            rows.append(
                ManifestRow(
                    sample_id=folder.name,
                    path=path,
                    kind="frames",
                    dataset="dfew",
                    split=file.split,
                    label=CLASS_NAMES["dfew"][label - first],
                    fold=file.fold,
                    identity=identities.get(folder.name, identities.get(path)),
                    frame_count=counts[folder.name],
                )
            )
    return rows


def _clip_key(name: str) -> str:
    """Ids name a clip with or without leading zeros."""
    return str(int(name)) if name.isdecimal() else name


def _label_files(root: Path, fold: int | None) -> list[_LabelFile]:
    splits = {
        split: folder_among(root, [f"{base}/{split}(single-labeled)" for base in LABELS], f"label folder for {split}")
        for split in ("train", "test")
    }
    found: dict[tuple[int, str], Path] = {}
    for split, folder in splits.items():
        for path in sorted(folder.glob("*.csv")):
            match = FILE_NAME.fullmatch(path.name)
            if match and not path.name.startswith({"train": "test", "test": "train"}[split]):
                key = (int(match[1]), split)
                if key in found:
                    raise DataError(f"{path}: fold {key[0]} is also in {found[key].name}")
                found[key] = path
    folds = sorted({number for number, _ in found})
    if not folds:
        raise DataError(f"{splits['train']}: no label files (set_1.csv or train_set_1.csv, ...)")
    if fold is not None and fold not in folds:
        raise UsageError(f"--fold {fold}: {splits['train'].parent} has folds {', '.join(map(str, folds))}")
    files = []
    for number in folds if fold is None else [fold]:
        for split, folder in splits.items():
            if (number, split) not in found:
                raise DataError(f"{folder}: no label file for fold {number}")
            files.append(_LabelFile(found[number, split], split, number, _read_file(found[number, split])))
        _refuse_overlap(files[-2], files[-1])
    return files


def _read_file(path: Path) -> tuple[tuple[int, str, int], ...]:
    rows: list[tuple[int, str, int]] = []
    seen: set[str] = set()
    for number, row in read_table(path, required=("video_name", "label")):
        name, label = row["video_name"], row["label"]
        if not label.isdecimal() or int(label) > len(CLASS_NAMES["dfew"]):
            raise DataError(f"{path}: line {number}: field 'label': unknown label {label!r}, expected 0 to 6 or 1 to 7")
        if _clip_key(name) in seen:
            raise DataError(f"{path}: line {number}: field 'video_name': {name!r} is listed twice")
        seen.add(_clip_key(name))
        rows.append((number, name, int(label)))
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return tuple(rows)


def _refuse_overlap(train: _LabelFile, test: _LabelFile) -> None:
    names = {_clip_key(name) for _, name, _ in train.rows}
    for number, name, _ in test.rows:
        if _clip_key(name) in names:
            raise DataError(f"{test.path}: line {number}: field 'video_name': {name!r} is in the train part too")


def _first_label(files: list[_LabelFile]) -> int:
    """Number of the first class, 0 or 1, from the range of all values."""
    last = len(CLASS_NAMES["dfew"])
    zero = next((file.path for file in files if any(label == 0 for _, _, label in file.rows)), None)
    seven = next((file.path for file in files if any(label == last for _, _, label in file.rows)), None)
    if zero and seven:
        raise DataError(f"{zero}: labels count from 0, but those of {seven} from 1")
    if not zero and not seven:
        raise DataError(f"{files[0].path}: field 'label': neither 0 nor {last} occurs, so the first class is unknown")
    return 0 if zero else 1
