"""Trees of `<split>/<emotion>/<medium>`, in which the folders are the labels."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from s4d.datasets.labels import canonical
from s4d.datasets.tree import MediaFolder, chosen_folder, tell_others
from s4d.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A medium: its path from the root, its split, its class."""

    path: str
    split: str
    label: str


def base_of(root: Path, names: Sequence[str], chosen: str | None) -> str:
    """The folder, from the root, that holds the split folders: `chosen` (--media), the root or one of `names`."""
    if chosen is not None:
        return "/".join(chosen_folder(root, chosen).relative_to(root).parts)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    inner = next((name for name in names if (root / name).is_dir()), "")
    has_splits = any(entry.name.lower() == "train" for entry in root.iterdir())
    return "" if has_splits else inner


def find_media(
    root: Path, base: str, splits: Mapping[str, str], classes: Sequence[str], suffixes: frozenset[str]
) -> Iterator[Found]:
    """Every medium below `base`, split by split; DataError for a folder that is missing, unknown or there twice.

    `splits` maps folder names to splits; capitals do not matter, and an emotion may be called by any of its spellings.
    """
    media = MediaFolder(root / base if base else root)
    wanted = dict.fromkeys(splits.values())
    folders: dict[str, str] = {}
    for name in media.subfolders():
        split = splits.get(name.lower())
        if split in folders:
            raise DataError(f"{media.base}: two folders of the {split} part: {folders[split]} and {name}")
        if split is not None:
            folders[split] = name
    for split in wanted:
        if split not in folders:
            spelled = " or ".join(name for name, meant in splits.items() if meant == split)
            raise DataError(f"{media.base}: no folder {spelled}")
        yield from _of_split(media, base, folders[split], split, classes, suffixes)


def _of_split(
    media: MediaFolder, base: str, folder: str, split: str, classes: Sequence[str], suffixes: frozenset[str]
) -> Iterator[Found]:
    spelled: dict[str, str] = {}
    for name in media.subfolders(folder):
        label = canonical(name)
        if label not in classes:
            raise DataError(f"{media.base / folder / name}: unknown label {name!r}, expected {', '.join(classes)}")
        if label in spelled:
            raise DataError(f"{media.base / folder}: two folders of class {label}: {spelled[label]} and {name}")
        spelled[label] = name
    for label in classes:
        inside = f"{folder}/{spelled.get(label, label)}"
        names = media.files(suffixes, inside) if label in spelled else []
        if not names:
            logger.warning("%s: no media of class %s", media.base / inside, label)
        else:
            others = sum(os.path.splitext(name)[1].lower() not in suffixes for name in media.entries(inside))
            tell_others(media.base / inside, others)
        for name in names:
            yield Found("/".join(part for part in (base, inside, name) if part), split, label)
        media.forget(inside)
