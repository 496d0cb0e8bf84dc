"""AffectNet as the S4D release reads it: lists of `path label` lines, labels counted from 0 in its class order."""

from __future__ import annotations

import os
import re
from pathlib import Path

from s4d.data.manifest import ManifestRow
from s4d.datasets import CLASS_NAMES
from s4d.datasets.listing import (
    Entry,
    LabelFile,
    class_number,
    identity_of,
    inner_path,
    place,
    read_identities,
    read_lines,
    refuse_empty,
    refuse_missing,
    refuse_overlap,
    refuse_repeats,
)
from s4d.datasets.request import Request
from s4d.datasets.tree import MediaFolder, media_folder
from s4d.errors import DataError

MEDIA = (".", "Manually_Annotated_Images")
COUNT = re.compile(r"affectnet[-_]?([78])(?!\d)")


def patterns(classes: int) -> tuple[str, str]:
    """File names of the train and the test list of AffectNet-7 or AffectNet-8."""
    return f"train_affectnet{classes}*.txt", "test_*.txt"


def is_here(root: Path, classes: int) -> bool:
    """Whether the train list of so many classes lies in `root`."""
    return next(root.glob(patterns(classes)[0]), None) is not None


def read(root: Path, dataset: str, request: Request) -> list[ManifestRow]:
    """One row per line of the two lists; DataError names list, line and what is wrong with it."""
    classes = CLASS_NAMES[dataset]
    files = []
    for split, pattern in zip(("train", "test"), patterns(len(classes)), strict=True):
        fitting = sorted(root.glob(pattern))
        others = [path.name for path in fitting if _is_of_other(path.name, len(classes))]
        lists = [path for path in fitting if path.name not in others]
        if not lists:
            beside = f" of {len(classes)} classes (only {', '.join(others)})" if others else ""
            raise DataError(f"{root}: no list {pattern}{beside}")
        if len(lists) > 1:
            raise DataError(f"{root}: {len(lists)} lists fit {pattern}: {', '.join(path.name for path in lists)}")
        files.append(_read_list(lists[0], split, classes))
    train, test = files
    refuse_overlap(train, test)
    identities = read_identities(root)
    return [row for file in files for row in _rows(root, dataset, file, request, identities)]


def _is_of_other(name: str, classes: int) -> bool:
    """Whether a list is called by the other number of classes: seven and eight may lie in one folder."""
    counts = COUNT.findall(name.lower())
    return bool(counts) and str(classes) not in counts


def _read_list(path: Path, split: str, classes: tuple[str, ...]) -> LabelFile:
    entries = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name:
            raise DataError(f"{place(path, number)}: expected 'path label', got {line!r}")
        entries.append(
            Entry(
                number,
                inner_path(name, place(path, number, "path")),
                class_number(label, classes, place(path, number, "label")),
            )
        )
    refuse_empty(path, entries)
    file = LabelFile(path=path, split=split, entries=tuple(entries))
    refuse_repeats(file)
    return file


def _rows(root: Path, dataset: str, file: LabelFile, request: Request, identities: dict[str, str]) -> list[ManifestRow]:
    first = file.entries[0].name
    chosen = request.media or next((folder for folder in MEDIA if os.path.isfile(root / folder / first)), MEDIA[0])
    base = media_folder(root, (), chosen, "images")
    media = MediaFolder(base)
    inside = base.relative_to(root)
    paths = {entry.name: (inside / entry.name).as_posix() for entry in file.entries}
    missing = [(entry.line, entry.name) for entry in file.entries if media.what(entry.name) != "file"]
    refuse_missing(file.path, missing, len(file.entries))
    return [
        ManifestRow(
            sample_id=entry.name,
            path=paths[entry.name],
            kind="image",
            dataset=dataset,
            split=file.split,
            label=entry.label,
            identity=identity_of(identities, entry.name, paths[entry.name]),
            frame_count=1,
        )
        for entry in file.entries
    ]
