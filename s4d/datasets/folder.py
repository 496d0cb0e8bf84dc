"""One's own data: class-named folders of images, videos or frame folders, or a csv file that lists them.

Folders: `[<split>/]<class>/<image, video or folder of frames>` with splits train, val (also valid or
validation) and test, capitals or not; media that lie directly in the folder have no label. A csv file, given itself or
as `labels.csv` in the folder, has the columns path and label and optionally split and identity; an empty label means
none. Where neither folders nor a column name a split, a fifth of the labelled samples is held out as test.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from s4d.data.manifest import ManifestRow
from s4d.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_key
from s4d.datasets.listing import (
    IDENTITIES,
    identity_of,
    inner_path,
    place,
    read_identities,
    read_table,
    refuse_empty,
    refuse_missing,
)
from s4d.datasets.request import Request
from s4d.datasets.test_part import with_test_part
from s4d.datasets.tree import Clip, MediaFolder, tell_others
from s4d.errors import DataError

logger = logging.getLogger(__name__)

# Name of a folder in lower case -> split.
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
TABLE = "labels.csv"


def prepare(root: Path, request: Request) -> list[ManifestRow]:
    """One row per image, video or frame folder; DataError names what is missing or doubled."""
    request.refuse("folder", "fold", "media")
    if root.is_file():
        return _from_table(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if (root / TABLE).is_file():
        return _from_table(root / TABLE)
    media = MediaFolder(root)
    identities = read_identities(root)
    splits = _splits(media)
    rows = [
        _row(clip, label=label, split=split, identity=identity_of(identities, clip.path, clip.path))
        for split, base in (splits or {"train": ""}).items()
        for clip, label in _clips(media, base)
    ]
    if not rows:
        raise DataError(f"{root}: no images or videos; expected <class>/<image, video or folder of frames> below it")
    return rows if splits else with_test_part(root, rows)


def _splits(media: MediaFolder) -> dict[str, str]:
    """Split -> its folder; empty where no folder is called by a split.

    DataError for two folders of one split, and for folders of media beside the splits.
    """
    found: dict[str, str] = {}
    others = []
    for name in media.subfolders():
        split = SPLITS.get(name.lower())
        if split is None:
            others.append(name)
        elif split in found:
            raise DataError(f"{media.base}: two folders of the {split} part: {found[split]} and {name}")
        else:
            found[split] = name
    if not found:
        return {}
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    stray = [name for name in others if next(media.walk(suffixes, name), None)]
    if stray:
        raise DataError(
            f"{media.base}: folders of media beside {' and '.join(found.values())}: {', '.join(stray)}; "
            f"a split is called {', '.join(SPLITS)}"
        )
    tell_others(media.base, len(media.files(suffixes)))
    return {split: found[split] for split in dict.fromkeys(SPLITS.values()) if split in found}


def _clips(media: MediaFolder, base: str) -> Iterator[tuple[Clip, str | None]]:
    """What lies in `base` itself, without label, and in its class folders; the log tells of all that is left out."""
    empty = []
    others = 0
    for path in _paths(media, base):
        if media.what(path) == "file":
            clip = media.clip(path)
            if clip is not None:
                yield clip, None
            elif path != IDENTITIES:
                others += 1
            continue
        unknown = 0
        for item in _paths(media, path):
            if media.what(item) == "folder" and not media.frame_count(item):
                empty.append(item)
                continue
            clip = media.clip(item)
            if clip is not None:
                yield clip, path.rpartition("/")[2]
            else:
                unknown += 1
        tell_others(media.base / path, unknown)
    tell_others(media.base / base, others)
    if empty:
        logger.warning("%s: %d folders hold no images, %s first", media.base, len(empty), empty[0])


def _paths(media: MediaFolder, folder: str) -> list[str]:
    names = sorted(media.entries(folder), key=natural_key)
    return [f"{folder}/{name}" if folder else name for name in names]


def _row(clip: Clip, *, label: str | None, split: str, identity: str | None) -> ManifestRow:
    return ManifestRow(
        sample_id=clip.path,
        path=clip.path,
        kind=clip.kind,
        dataset="folder",
        split=split,
        label=label,
        identity=identity,
        frame_count=clip.frame_count,
    )


def _from_table(table: Path) -> list[ManifestRow]:
    lines = read_table(table, required=("path", "label"), optional=("split", "identity"))
    refuse_empty(table, lines)
    media = MediaFolder(table.parent)
    paths = [inner_path(row["path"], place(table, number, "path")) for number, row in lines]
    missing = [(number, path) for (number, _), path in zip(lines, paths, strict=True) if media.what(path) is None]
    refuse_missing(table, missing, len(lines))
    rows = []
    seen: set[str] = set()
    for (number, row), path in zip(lines, paths, strict=True):
        where = place(table, number, "path")
        clip = media.clip(path)
        if clip is None:
            raise DataError(f"{where}: {path!r} is no image, video or frame folder")
        if path in seen:
            raise DataError(f"{where}: {path!r} is listed twice")
        seen.add(path)
        identity = row.get("identity") or None
        rows.append(_row(clip, label=row["label"] or None, split=row.get("split") or "train", identity=identity))
    return rows if "split" in lines[0][1] else with_test_part(table, rows)
