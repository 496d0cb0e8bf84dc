"""FERV39k: folders of face crops by scene and expression, with one official split.

Two forms of the lists: the original `4_setups/All_scenes/{train,test}_All.csv`, without header, lines such as
`Crime/Angry/0063 Angry`; and `Annotation/{train,test}.csv` of the S4D release, columns path and id, where id is a class
number in the order of the release (another one with `--labels`).
"""

from __future__ import annotations

from pathlib import Path

from s4d.data.manifest import ManifestRow
from s4d.datasets import CLASS_NAMES
from s4d.datasets.labels import canonical
from s4d.datasets.listing import (
    Entry,
    LabelFile,
    class_name,
    class_number,
    identity_of,
    inner_path,
    place,
    read_columns,
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

MEDIA = ("2_ClipsforFaceCrop", "2_ClipsforFaceCrop/2_ClipsforFaceCrop")
ORIGINAL = ("4_setups/All_scenes/{}_All.csv", "All_scenes/{}_All.csv", "{}_All.csv")
RELEASED = ("Annotation/{}.csv", "{}.csv")


def prepare(root: Path, request: Request) -> list[ManifestRow]:
    """One row per clip of the official split; DataError names file, line and field."""
    request.refuse("ferv39k", "fold")
    base = media_folder(root, MEDIA, request.media, "folder of clips")
    media = MediaFolder(base)
    train, test = (_read(root, split, request.order) for split in ("train", "test"))
    refuse_overlap(train, test)
    identities = read_identities(root)
    rows = []
    for file in (train, test):
        missing = [(entry.line, entry.name) for entry in file.entries if media.what(entry.name) is None]
        refuse_missing(file.path, missing, len(file.entries), file.field)
        for entry in file.entries:
            clip = media.clip(entry.name)
            if clip is None:
                where = place(file.path, entry.line, file.field)
                raise DataError(f"{where}: {entry.name!r} is no folder of frames or video")
            path = (base / clip.path).relative_to(root).as_posix()
            rows.append(
                ManifestRow(
                    sample_id=entry.name,
                    path=path,
                    kind=clip.kind,
                    dataset="ferv39k",
                    split=file.split,
                    label=entry.label,
                    identity=identity_of(identities, entry.name, path),
                    frame_count=clip.frame_count,
                )
            )
    return rows


def _read(root: Path, split: str, order: tuple[str, ...]) -> LabelFile:
    """The one list of a split that lies under `root`, in either form."""
    found = [name.format(split) for name in (*ORIGINAL, *RELEASED) if (root / name.format(split)).is_file()]
    if len(found) != 1:
        wanted = f"one of {', '.join(name.format(split) for name in (*ORIGINAL, *RELEASED))}"
        raise DataError(f"{root}: {len(found)} lists of the {split} split ({', '.join(found)}), expected {wanted}")
    path = root / found[0]
    entries = []
    original = path.name.endswith("_All.csv")
    for line, name, label in _named(path) if original else _numbered(path):
        where = place(path, line, "label" if original else "id")
        if original:
            known = class_name(label, CLASS_NAMES["ferv39k"], where, canonical)
        else:
            known = class_number(label, order, where)
        entries.append(Entry(line, inner_path(name, place(path, line, "path")), known))
    refuse_empty(path, entries)
    file = LabelFile(path=path, split=split, entries=tuple(entries))
    refuse_repeats(file)
    _check_folders(file)
    return file


def _named(path: Path) -> list[tuple[int, str, str]]:
    return [(line, name, label) for line, (name, label) in read_columns(path, ("path", "label"))]


def _numbered(path: Path) -> list[tuple[int, str, str]]:
    return [(line, row["path"], row["id"]) for line, row in read_table(path, required=("path", "id"))]


def _check_folders(file: LabelFile) -> None:
    """DataError where the folder of a clip names another expression than its label: numbers of another order."""
    for entry in file.entries:
        parts = entry.name.split("/")
        folder = canonical(parts[-2]) if len(parts) > 1 else ""
        if folder != entry.label:
            raise DataError(
                f"{place(file.path, entry.line, 'path')}: {entry.name!r} has label {entry.label!r}, expected a clip in "
                "a folder of that name (do the numbers follow another order? see --labels)"
            )
