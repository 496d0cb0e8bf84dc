"""What to predict on: files, and folders with all that is in them; each with a place for its results."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from s4d.data.manifest import Kind
from s4d.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_key
from s4d.errors import DataError, UsageError
from s4d.inference.clip import text_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """One picture, video or folder of frames (`kind`; None: as the file says); `name` is its path as it was found.

    Results are written to `target`, a path without suffix below the folder of results.
    """

    path: Path
    name: str
    kind: Kind | None
    target: str


@dataclass(slots=True)
class Found:
    """Inputs in order, and how many files of folders were passed over, being neither pictures nor videos by name."""

    inputs: list[Input] = field(default_factory=list)
    passed_over: int = 0


def find_inputs(paths: Sequence[Path], *, frame_folders: bool = False) -> Found:
    """Every file named, and of every folder all pictures and videos in natural order, folders below included.

    With `frame_folders` a folder that holds pictures is one clip. DataError for a path that is not there or a folder
    without media; UsageError for two inputs whose results would be one file.
    """
    found = Found()
    listed: list[tuple[Path, str, Kind | None]] = []
    for path in paths:
        if path.is_dir():
            inside = _inside(path, path, frame_folders, found)
            if not inside:
                raise DataError(f"{path}: holds no pictures or videos")
            listed += inside
        elif path.exists():
            listed.append((path, text_of(path.name), None))
        else:
            raise DataError(f"{path}: no such file or folder")
    stems = Counter(_stem(name, kind) for _, name, kind in listed)
    owners: dict[str, Path] = {}
    for path, name, kind in listed:
        # A picture and a video of one name keep their suffixes.
        target = name if stems[_stem(name, kind)] > 1 else _stem(name, kind)
        if target in owners:
            raise UsageError(f"{path}: its results would have the name of those of {owners[target]}: {target}")
        owners[target] = path
        found.inputs.append(Input(path=path, name=name, kind=kind, target=target))
    return found


def _stem(name: str, kind: Kind | None) -> str:
    return name if kind == "frames" else os.path.splitext(name)[0] or name


def _inside(folder: Path, root: Path, frame_folders: bool, found: Found) -> list[tuple[Path, str, Kind | None]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: natural_key(entry.name))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error
    suffixes = [os.path.splitext(entry.name)[1].lower() for entry in entries]
    is_clip = frame_folders and any(suffix in IMAGE_SUFFIXES for suffix in suffixes)
    listed: list[tuple[Path, str, Kind | None]] = []
    if is_clip:
        listed.append((folder, _name(folder, root), "frames"))
    for entry, suffix in zip(entries, suffixes, strict=True):
        path = folder / entry.name
        # A link to a folder above would go round for ever.
        if entry.is_dir(follow_symlinks=False):
            listed += _inside(path, root, frame_folders, found)
        elif suffix in VIDEO_SUFFIXES or (suffix in IMAGE_SUFFIXES and not is_clip):
            listed.append((path, _name(path, root), "image" if suffix in IMAGE_SUFFIXES else "video"))
        elif suffix not in IMAGE_SUFFIXES:
            found.passed_over += 1
    return listed


def _name(path: Path, root: Path) -> str:
    return text_of(path.name if path == root else path.relative_to(root).as_posix())
