"""RAF-DB, basic part: aligned or original images, and one list in which classes count from 1.

The file's name says the split (`train_00001.jpg`); the list is spelled `list_patition_label.txt` in the original. Lists
called `train_label.txt` and `test_label.txt` are read too. Both forms of the images come in one package, so `--media`
has to choose: `Image/aligned` holds cut-out faces of 100 x 100 pixels, `Image/original` the images as found, for which
`Annotation` has a box and five points each.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
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
    read_columns,
    read_identities,
    read_lines,
    refuse_empty,
    refuse_missing,
    refuse_repeats,
)
from s4d.datasets.request import Request
from s4d.datasets.small_arrays import Loaded, load_each
from s4d.datasets.tree import MediaFolder, media_folder
from s4d.errors import DataError

logger = logging.getLogger(__name__)

BASES = ("", "basic")
LISTS = (
    ("EmoLabel/list_patition_label.txt",),
    ("EmoLabel/list_partition_label.txt",),
    ("list_patition_label.txt",),
    ("EmoLabel/train_label.txt", "EmoLabel/test_label.txt"),
    ("train_label.txt", "test_label.txt"),
)
MEDIA = tuple(f"{base}{'/' if base else ''}Image/{form}" for base in BASES for form in ("aligned", "original"))
SPLITS = ("train", "test")
BOXES, POINTS = "boundingbox/{}_boundingbox.txt", "manual/{}_manu_attri.txt"


def prepare(root: Path, request: Request) -> list[ManifestRow]:
    """One row per image of the list; DataError names list, line and field."""
    request.refuse("rafdb", "fold")
    files = [_read_list(path) for path in _lists(root)]
    base = media_folder(root, MEDIA, request.media, "folder of images")
    media = MediaFolder(base)
    inside = base.relative_to(root).as_posix()
    identities = read_identities(root)
    rows = []
    for file in files:
        names = {entry.name: _on_disk(media, entry.name) for entry in file.entries}
        missing = [(entry.line, entry.name) for entry in file.entries if names[entry.name] is None]
        refuse_missing(file.path, missing, len(file.entries), file.field)
        whole = [entry.name for entry in file.entries if names[entry.name] == entry.name]
        annotation = base.parent.parent / "Annotation"
        boxes = _annotated(annotation, BOXES, whole, _box)
        points = _annotated(annotation, POINTS, whole, _points)
        for entry in file.entries:
            stem = os.path.splitext(entry.name)[0]
            path = f"{inside}/{names[entry.name]}"
            rows.append(
                ManifestRow(
                    sample_id=stem,
                    path=path,
                    kind="image",
                    dataset="rafdb",
                    split=stem.partition("_")[0],
                    label=entry.label,
                    identity=identity_of(identities, stem, path),
                    frame_count=1,
                    face_box=boxes.get(entry.name),
                    face_points=points.get(entry.name),
                )
            )
    return rows


def _lists(root: Path) -> list[Path]:
    for base in BASES:
        for names in LISTS:
            paths = [root / base / name for name in names]
            if all(path.is_file() for path in paths):
                return paths
    raise DataError(f"{root}: no list of labels (looked for {', '.join(' and '.join(names) for names in LISTS)})")


def _read_list(path: Path) -> LabelFile:
    entries = []
    for line, (name, label) in read_columns(path, ("image", "label")):
        name = inner_path(name, place(path, line, "image"))
        split = name.partition("_")[0]
        if split not in SPLITS:
            raise DataError(f"{place(path, line, 'image')}: {name!r} begins with neither train_ nor test_")
        entries.append(Entry(line, name, class_number(label, CLASS_NAMES["rafdb"], place(path, line, "label"), 1)))
    refuse_empty(path, entries)
    file = LabelFile(path=path, split="", entries=tuple(entries), field="image")
    refuse_repeats(file)
    return file


def _on_disk(media: MediaFolder, name: str) -> str | None:
    """The file of an image: its own name, or the one that aligned images have; None for a missing one."""
    stem, suffix = os.path.splitext(name)
    return next((found for found in (name, f"{stem}_aligned{suffix}") if media.what(found) == "file"), None)


def _annotated(folder: Path, pattern: str, names: list[str], read: Callable[[str], Loaded]) -> dict[str, Loaded]:
    """What `read` finds beside each image; nothing where the package has no such folder."""
    if not names or not (folder / pattern).parent.is_dir():
        return {}
    listed = MediaFolder((folder / pattern).parent).entries()
    files = {name: pattern.format(os.path.splitext(name)[0]) for name in names}
    there = [name for name in names if os.path.basename(files[name]) in listed]
    if len(there) < len(names):
        logger.warning("%s: %d of %d images have none", folder / pattern, len(names) - len(there), len(names))
    return dict(zip(there, load_each([f"{folder}/{files[name]}" for name in there], read), strict=True))


def _box(path: str) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in pixels."""
    left, top, right, bottom = (round(value) for value in _numbers(path, 1, 4))
    return left, top, right, bottom


def _points(path: str) -> tuple[float, ...]:
    """x and y of eyes, nose and mouth corners; sex, race and age follow in the file."""
    return tuple(round(value, 1) for value in _numbers(path, 5, 10))


def _numbers(path: str, lines: int, count: int) -> list[float]:
    text = " ".join(read_lines(Path(path))[:lines])
    try:
        numbers = [float(part) for part in text.split()]
        if not all(math.isfinite(value) for value in numbers):
            raise ValueError("a coordinate is not finite")
    except ValueError as error:
        raise DataError(f"{path}: line 1: {error}") from error
    if len(numbers) != count:
        raise DataError(f"{path}: line 1: expected {count} numbers in {lines} lines, got {len(numbers)}")
    return numbers
