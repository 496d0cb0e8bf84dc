"""MAFW: videos, frames or face crops, five folds, and lists of single or of compound expressions.

Forms of the lists, below a folder `single` or `compound`: the original `no_caption/set_K/{train,test}.txt`, lines
`00151.mp4 anger`; the same with captions, `with_caption/...`, divided by tabs, where the captions are in a mixture of
encodings and clips without caption (all neutral ones) are missing; and `no_caption/set_K/{train,test}.csv` of the S4D
release, columns video_name and labels, where labels is a class number in the order of the release (another one
with `--labels`). A compound label joins names by `_`.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from s4d.data.manifest import ManifestRow
from s4d.datasets import CLASS_NAMES
from s4d.datasets.labels import MAFW_NATIVE, canonical
from s4d.datasets.listing import (
    Entry,
    LabelFile,
    class_name,
    class_number,
    folder_among,
    identity_of,
    inner_path,
    is_number,
    place,
    read_columns,
    read_identities,
    read_lines,
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
    "data/frames/frames_crop_align_224",
    "frames_crop_align_224",
    "data/faces",
    "faces",
    "data/frames",
    "frames",
    "data/clips",
    "clips",
)
LISTS = ("Train & Test Set", "train_test_set/Train & Test Set", "split", "anno", ".")
SPLITS = ("train", "test")
FIELD = "video_name"
# Fields of a line of the captioned lists: clip, label, Chinese and English caption.
CAPTIONED = 4


def prepare(root: Path, request: Request) -> list[ManifestRow]:
    """One row per clip and fold of the single-expression set; DataError names file, line and field."""
    return _prepare(root, request, "mafw", "single")


def prepare_compound(root: Path, request: Request) -> list[ManifestRow]:
    """One row per clip and fold of the compound set: classes such as `anger` and `anger_disgust`."""
    return _prepare(root, request, "mafw_compound", "compound")


def _prepare(root: Path, request: Request, dataset: str, which: str) -> list[ManifestRow]:
    base = media_folder(root, MEDIA, request.media, "folder of clips")
    files = _label_files(root, request, which)
    media = MediaFolder(base)
    names = media.clip_names()
    identities = read_identities(root)
    clips: dict[str, Clip] = {}
    rows = []
    for file in files:
        missing = [(entry.line, entry.name) for entry in file.entries if entry.name not in names]
        refuse_missing(file.path, missing, len(file.entries), file.field)
        for entry in file.entries:
            clip = clips.get(entry.name) or media.clip(names[entry.name])
            if clip is None:
                where = place(file.path, entry.line, file.field)
                raise DataError(f"{where}: {entry.name!r} is no video or folder of frames")
            clips[entry.name] = clip
            path = (base / clip.path).relative_to(root).as_posix()
            rows.append(
                ManifestRow(
                    sample_id=entry.name,
                    path=path,
                    kind=clip.kind,
                    dataset=dataset,
                    split=file.split,
                    label=entry.label,
                    fold=file.fold,
                    identity=identity_of(identities, entry.name, path),
                    frame_count=clip.frame_count,
                )
            )
    return rows


def _label_files(root: Path, request: Request, which: str) -> list[LabelFile]:
    base = folder_among(root, [f"{lists}/{which}" for lists in LISTS], f"label folder {which}")
    captions = not (base / "no_caption").is_dir()
    lists = folder_among(base, ("no_caption", "with_caption"), "lists")
    if captions:
        logger.warning("%s: only the lists with captions: clips without one, all neutral ones, are missing", base)
    folders = _folds(lists)
    folds = sorted(folders)
    if request.fold is not None and request.fold not in folds:
        raise UsageError(f"--fold {request.fold}: {lists} has folds {', '.join(map(str, folds))}")
    files = []
    for fold in folds if request.fold is None else [request.fold]:
        for split in SPLITS:
            path = _list_in(folders[fold], split, (".txt", ".csv") if which == "single" else (".txt",))
            entries = _released(path, request.order) if path.suffix == ".csv" else _original(path, which, captions)
            refuse_empty(path, entries)
            files.append(LabelFile(path=path, split=split, entries=entries, fold=fold, field=FIELD))
            refuse_repeats(files[-1])
        refuse_overlap(files[-2], files[-1])
    return files


def _folds(lists: Path) -> dict[int, Path]:
    """The folder of each fold by its number; DataError for none, and for two of one number such as set_1 and set_01."""
    folders: dict[int, Path] = {}
    for path in sorted(lists.glob("set_*")):
        number = path.name.removeprefix("set_")
        if path.is_dir() and is_number(number):
            if int(number) in folders:
                raise DataError(
                    f"{lists}: two folders of fold {int(number)}: {folders[int(number)].name} and {path.name}"
                )
            folders[int(number)] = path
    if not folders:
        raise DataError(f"{lists}: no folds (set_1, ...)")
    return folders


def _list_in(folder: Path, split: str, suffixes: tuple[str, ...]) -> Path:
    """The only list of a split; numbers of compound classes have no published meaning, so those come by name alone."""
    names = [f"{split}{suffix}" for suffix in suffixes]
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) != 1:
        raise DataError(f"{folder}: {len(found)} lists of the {split} split, expected one of {', '.join(names)}")
    return found[0]


def _original(path: Path, which: str, captions: bool) -> tuple[Entry, ...]:
    rows = _captioned(path) if captions else read_columns(path, (FIELD, "label"))
    entries = []
    for line, (name, label, *_) in rows:
        where = place(path, line, "label")
        known = _compound(label, where) if which == "compound" else _single(label, where)
        entries.append(_entry(path, line, name, known))
    return tuple(entries)


def _captioned(path: Path) -> list[tuple[int, tuple[str, ...]]]:
    rows = []
    for number, line in enumerate(read_lines(path, stray_bytes=True), start=1):
        if line.strip():
            cells = tuple(cell.strip() for cell in line.split("\t"))
            if not 2 <= len(cells) <= CAPTIONED:
                where = place(path, number)
                raise DataError(f"{where}: expected 2 to {CAPTIONED} fields divided by tabs, got {len(cells)}")
            rows.append((number, cells))
    return rows


def _released(path: Path, order: tuple[str, ...]) -> tuple[Entry, ...]:
    return tuple(
        _entry(path, line, row[FIELD], class_number(row["labels"], order, place(path, line, "labels")))
        for line, row in read_table(path, required=(FIELD, "labels"))
    )


def _entry(path: Path, line: int, name: str, label: str) -> Entry:
    """The clip without the suffix of its video: frames and crops have none."""
    return Entry(line, os.path.splitext(inner_path(name, place(path, line, FIELD)))[0], label)


def _single(label: str, where: str) -> str:
    return class_name(label, CLASS_NAMES["mafw"], where, canonical)


def _compound(label: str, where: str) -> str:
    """Names joined by `_`, in the dataset's own order whatever order a list has them in."""
    names = {class_name(part, MAFW_NATIVE, where, canonical) for part in label.split("_")}
    return "_".join(sorted(names, key=MAFW_NATIVE.index))
