"""DFEW: clips as videos or folders of frames, five folds of csv files, in the original form and in the released one.

The original files count classes from 1, those of the S4D release from 0, both in the same order; which one a tree uses
follows from the values and is logged.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from s4d.data.manifest import ManifestRow
from s4d.datasets import CLASS_NAMES
from s4d.datasets.listing import (
    Entry,
    LabelFile,
    folder_among,
    identity_of,
    inner_path,
    is_number,
    place,
    read_identities,
    read_table,
    refuse_empty,
    refuse_missing,
    refuse_overlap,
    refuse_repeats,
)
from s4d.datasets.request import Request
from s4d.datasets.tree import Clip, MediaFolder, media_folder
from s4d.errors import DataError, UsageError

logger = logging.getLogger(__name__)

MEDIA = (
    "Clip/jpg_256",
    "clip_jpg_256",
    "jpg_256",
    "Clip/clip_224x224",
    "Clip/clip_224x224_16f",
    "Clip/clip_224x224_avi",
    "Clip/original",
)
LABELS = ("EmoLabel_DataSplit", ".")
FILE_NAME = re.compile(r"(?:(?:train|test)_)?set_(\d+)\.csv")
FIELD = "video_name"


def prepare(root: Path, request: Request) -> list[ManifestRow]:
    """One row per clip and fold, all folds when none is asked for; DataError names file, line and field."""
    base = media_folder(root, MEDIA, request.media, "folder of clips")
    files = _label_files(root, request.fold)
    first = _first_label(files)
    logger.info("%s: labels count from %d", files[0].path.parent, first)
    media = MediaFolder(base)
    names = {_clip_key(stem): name for stem, name in media.clip_names().items()}
    identities = read_identities(root)
    clips: dict[str, Clip] = {}
    rows: list[ManifestRow] = []
    for file in files:
        missing = [(entry.line, entry.name) for entry in file.entries if _clip_key(entry.name) not in names]
        refuse_missing(file.path, missing, len(file.entries), FIELD)
        for entry in file.entries:
            key = _clip_key(entry.name)
            clip = clips.get(key) or media.clip(names[key])
            if clip is None:
                raise DataError(f"{place(file.path, entry.line, FIELD)}: {entry.name!r} is no video or frame folder")
            clips[key] = clip
            sample = clip.path if clip.kind == "frames" else Path(clip.path).stem
            path = (base / clip.path).relative_to(root).as_posix()
            rows.append(
                ManifestRow(
                    sample_id=sample,
                    path=path,
                    kind=clip.kind,
                    dataset="dfew",
                    split=file.split,
                    label=CLASS_NAMES["dfew"][int(entry.label) - first],
                    fold=file.fold,
                    identity=identity_of(identities, sample, path),
                    frame_count=clip.frame_count,
                )
            )
    return rows


def _clip_key(name: str) -> str:
    """Ids name a clip with or without leading zeros."""
    return name.lstrip("0") or "0" if name.isascii() and name.isdecimal() else name


def _label_files(root: Path, fold: int | None) -> list[LabelFile]:
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
            files.append(_read_file(found[number, split], split, number))
        refuse_overlap(files[-2], files[-1], _clip_key)
    return files


def _read_file(path: Path, split: str, fold: int) -> LabelFile:
    """The rows with their numbers as labels; what they count from shows over all files."""
    names = CLASS_NAMES["dfew"]
    entries = []
    for line, row in read_table(path, required=(FIELD, "label")):
        label = row["label"]
        if not is_number(label) or int(label) > len(names):
            where = place(path, line, "label")
            raise DataError(f"{where}: unknown label {label!r}, expected 0 to 6 or 1 to 7")
        entries.append(Entry(line, inner_path(row[FIELD], place(path, line, FIELD)), label))
    refuse_empty(path, entries)
    file = LabelFile(path=path, split=split, entries=tuple(entries), fold=fold, field=FIELD)
    refuse_repeats(file, _clip_key)
    return file


def _first_label(files: list[LabelFile]) -> int:
    """Number of the first class, 0 or 1, from the range of all values."""
    last = len(CLASS_NAMES["dfew"])
    zero = next((file.path for file in files if any(int(entry.label) == 0 for entry in file.entries)), None)
    seven = next((file.path for file in files if any(int(entry.label) == last for entry in file.entries)), None)
    if zero and seven:
        raise DataError(f"{zero}: labels count from 0, but those of {seven} from 1")
    if not zero and not seven:
        raise DataError(f"{files[0].path}: field 'label': neither 0 nor {last} occurs, so the first class is unknown")
    return 0 if zero else 1
