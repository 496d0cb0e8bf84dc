"""One's own data: class-named folders of images, videos or frame folders, or a csv file that lists them.

Folders: `[<split>/]<class>/<image, video or folder of frames>` with splits train, val and test (train when there are
none); media that lie directly in the folder have no label. A csv file, given itself or as `labels.csv` in the folder,
has the columns path and label and optionally split and identity; an empty label means none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from s4d.data.manifest import Kind, ManifestRow
from s4d.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_key
from s4d.datasets.listing import read_identities, read_table, refuse_fold, refuse_missing
from s4d.errors import DataError

SPLITS = ("train", "val", "test")
TABLE = "labels.csv"


def prepare(root: Path, *, fold: int | None) -> list[ManifestRow]:
    """One row per image, video or frame folder; DataError names what is missing or doubled."""
    refuse_fold("folder", fold)
    if root.is_file():
        return _from_table(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if (root / TABLE).is_file():
        return _from_table(root / TABLE)
    identities = read_identities(root)
    splits = [split for split in SPLITS if (root / split).is_dir()]
    rows = [
        _row(path, kind, root, label=label, split=split, identity=identities.get(path.relative_to(root).as_posix()))
        for split, base in ([(split, root / split) for split in splits] or [("train", root)])
        for path, kind, label in _media(base)
    ]
    if not rows:
        raise DataError(f"{root}: no images or videos; expected <class>/<image, video or folder of frames> below it")
    return rows


def _media(base: Path) -> Iterator[tuple[Path, Kind, str | None]]:
    for entry in _entries(base):
        kind = _kind(entry)
        if kind in ("image", "video"):
            yield entry, kind, None
        elif entry.is_dir():
            for item in _entries(entry):
                inner = _kind(item)
                if inner is not None:
                    yield item, inner, entry.name


def _entries(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.name[0] != "."), key=lambda path: natural_key(path.name))


def _kind(path: Path) -> Kind | None:
    if path.is_dir():
        return "frames" if any(item.suffix.lower() in IMAGE_SUFFIXES for item in path.iterdir()) else None
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "video" if suffix in VIDEO_SUFFIXES else None


def _row(path: Path, kind: Kind, root: Path, *, label: str | None, split: str, identity: str | None) -> ManifestRow:
    inside = path.relative_to(root).as_posix()
    return ManifestRow(
        sample_id=inside, path=inside, kind=kind, dataset="folder", split=split, label=label, identity=identity
    )


def _from_table(table: Path) -> list[ManifestRow]:
    root = table.parent
    lines = read_table(table, required=("path", "label"), optional=("split", "identity"))
    refuse_missing(table, [row["path"] for _, row in lines if not (root / row["path"]).exists()], len(lines))
    rows = []
    seen: set[str] = set()
    for number, row in lines:
        path = root / row["path"]
        kind = _kind(path)
        if kind is None:
            raise DataError(f"{table}: line {number}: field 'path': {row['path']!r} is no image, video or frame folder")
        if row["path"] in seen:
            raise DataError(f"{table}: line {number}: field 'path': {row['path']!r} is listed twice")
        seen.add(row["path"])
        rows.append(
            ManifestRow(
                sample_id=row["path"],
                path=row["path"],
                kind=kind,
                dataset="folder",
                split=row.get("split") or "train",
                label=row["label"] or None,
                identity=row.get("identity") or None,
            )
        )
    if not rows:
        raise DataError(f"{table}: holds no rows")
    return rows
