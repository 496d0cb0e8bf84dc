"""AffectNet in the form that the S4D release reads: lists of `path label` lines, labels 0 to 6 in its class order."""

from __future__ import annotations

from pathlib import Path

from s4d.data.manifest import ManifestRow
from s4d.datasets import CLASS_NAMES
from s4d.datasets.listing import read_identities, read_lines, refuse_missing
from s4d.datasets.request import Request
from s4d.errors import DataError

LISTS = {"train": "train_affectnet7*.txt", "test": "test_*.txt"}
MEDIA = ("", "Manually_Annotated_Images")


def prepare(root: Path, request: Request) -> list[ManifestRow]:
    """One row per line of the lists under `root`; DataError names list, line and what is wrong with it."""
    request.refuse("affectnet", "fold", "media")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    identities = read_identities(root)
    rows = []
    for split, pattern in LISTS.items():
        lists = sorted(root.glob(pattern))
        if not lists:
            raise DataError(f"{root}: no list {pattern}")
        if len(lists) > 1:
            raise DataError(f"{root}: {len(lists)} lists fit {pattern}: {', '.join(path.name for path in lists)}")
        rows += _read_list(lists[0], root, split, identities)
    return rows


def _read_list(path: Path, root: Path, split: str, identities: dict[str, str]) -> list[ManifestRow]:
    names = CLASS_NAMES["affectnet"]
    entries: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name:
            raise DataError(f"{path}: line {number}: expected 'path label', got {line!r}")
        if not label.isdecimal() or int(label) >= len(names):
            raise DataError(f"{path}: line {number}: unknown label {label!r}, expected 0 to {len(names) - 1}")
        if name in entries:
            raise DataError(f"{path}: line {number}: {name!r} is listed twice")
        entries[name] = names[int(label)]
        lines[name] = number
    if not entries:
        raise DataError(f"{path}: holds no rows")
    media = next((folder for folder in MEDIA if (root / folder / next(iter(entries))).is_file()), MEDIA[0])
    paths = {name: f"{media}/{name}" if media else name for name in entries}
    missing = [(lines[name], name) for name in entries if not (root / paths[name]).is_file()]
    refuse_missing(path, missing, len(entries))
    return [
        ManifestRow(
            sample_id=name,
            path=paths[name],
            kind="image",
            dataset="affectnet",
            split=split,
            label=label,
            identity=identities.get(name, identities.get(paths[name])),
            frame_count=1,
        )
        for name, label in entries.items()
    ]
