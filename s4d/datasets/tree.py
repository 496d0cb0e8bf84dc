"""Folders of media as they lie on disk: each is listed once, links stay inside the tree, no file is opened.

A million files are looked up by listing their folders, without a system call per file. A symbolic link is followed
where it leads to something below the same folder. The folder of the media itself, or the whole dataset, may be a link:
whoever set it up meant it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from s4d.data.manifest import Kind
from s4d.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from s4d.datasets.listing import check_name
from s4d.errors import DataError, UsageError

logger = logging.getLogger(__name__)

What = Literal["file", "folder", "link"]


@dataclass(frozen=True, slots=True)
class Clip:
    """A medium found below a folder: its path from there, its kind, and its frame count where that was counted."""

    path: str
    kind: Kind
    frame_count: int | None = None


class MediaFolder:
    """Lookup below one folder; `entries` and `what` list a folder on first use and remember it."""

    def __init__(self, base: Path) -> None:
        if not base.is_dir():
            raise DataError(f"{base}: no such folder")
        self.base = base
        self._real = os.path.realpath(base)
        self._listed: dict[str, dict[str, What]] = {}

    def entries(self, folder: str = "") -> dict[str, What]:
        """Name -> file, folder or link, for what lies in `folder` ("" is the base); litter of systems is left out.

        DataError for a name that no manifest could hold.
        """
        if folder not in self._listed:
            path = os.path.join(self.base, folder) if folder else str(self.base)
            try:
                with os.scandir(path) as found:
                    names = {entry.name: _what(entry) for entry in found if not _is_litter(entry.name)}
            except OSError as error:
                raise DataError(f"{path}: cannot list this folder: {error.strerror or error}") from error
            for name in names:
                check_name(name, f"{path}: name of a file")
            self._listed[folder] = names
        return self._listed[folder]

    def forget(self, folder: str) -> None:
        """Free what is remembered of a folder that will not be asked for again."""
        self._listed.pop(folder, None)

    def what(self, path: str) -> What | None:
        """Whether `path` is a file or a folder, None for what is not there; DataError for a link that leads astray."""
        folder, _, name = path.rpartition("/")
        if folder and self.what(folder) != "folder":
            return None
        found = self.entries(folder).get(name)
        return self._behind_link(path) if found == "link" else found

    def _is(self, folder: str, name: str, what: What, wanted: What) -> bool:
        return (self._behind_link(_join(folder, name)) if what == "link" else what) == wanted

    def _behind_link(self, path: str) -> What | None:
        whole = os.path.join(self.base, path)
        try:
            target = os.path.realpath(whole, strict=True)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"{whole}: a loop of symbolic links") from error
        if os.path.commonpath([target, self._real]) != self._real:
            raise DataError(f"{whole}: a symbolic link that leads outside {self.base}")
        if os.path.commonpath([target, os.path.realpath(os.path.dirname(whole))]) == target:
            raise DataError(f"{whole}: a symbolic link to a folder that it lies in")
        return "folder" if os.path.isdir(target) else "file"

    def subfolders(self, folder: str = "") -> list[str]:
        """Names of the folders in `folder`, sorted."""
        return sorted(name for name, what in self.entries(folder).items() if self._is(folder, name, what, "folder"))

    def files(self, suffixes: frozenset[str], folder: str = "") -> list[str]:
        """Names of the files in `folder` with one of `suffixes` (lower case), sorted as text."""
        return sorted(
            name
            for name, what in self.entries(folder).items()
            if os.path.splitext(name)[1].lower() in suffixes and self._is(folder, name, what, "file")
        )

    def walk(self, suffixes: frozenset[str], folder: str = "") -> Iterator[str]:
        """Paths of all files below `folder` with one of `suffixes`, folder by folder in sorted order."""
        yield from (_join(folder, name) for name in self.files(suffixes, folder))
        for name in self.subfolders(folder):
            yield from self.walk(suffixes, _join(folder, name))
        self.forget(folder)

    def frame_count(self, folder: str) -> int:
        """Number of image files in a folder. The listing is not remembered."""
        count = len(self.files(IMAGE_SUFFIXES, folder))
        self.forget(folder)
        return count

    def clip(self, path: str) -> Clip | None:
        """The folder of frames, image or video at `path`; None for what is neither, DataError for an empty folder."""
        what = self.what(path)
        if what == "folder":
            count = self.frame_count(path)
            if not count:
                raise DataError(f"{self.base / path}: no frames (image files) in this folder")
            return Clip(path, "frames", count)
        suffix = os.path.splitext(path)[1].lower()
        if what == "file" and suffix in VIDEO_SUFFIXES:
            return Clip(path, "video")
        return Clip(path, "image", 1) if what == "file" and suffix in IMAGE_SUFFIXES else None

    def clip_names(self) -> dict[str, str]:
        """Stem -> name of each folder and video that lies directly in the base.

        DataError where the base holds both kinds: which of them is meant, nobody can know.
        """
        folders = self.subfolders()
        videos = self.files(VIDEO_SUFFIXES)
        if folders and videos:
            raise DataError(
                f"{self.base}: holds folders ({folders[0]}, ...) and videos ({videos[0]}, ...), expected one of them"
            )
        stems: dict[str, str] = {name: name for name in folders}
        for name in videos:
            stem = os.path.splitext(name)[0]
            if stem in stems:
                raise DataError(f"{self.base}: two videos of one name: {stems[stem]} and {name}")
            stems[stem] = name
        return stems


def chosen_folder(root: Path, chosen: str) -> Path:
    """The folder that --media names; UsageError for one that does not exist or does not lie below `root`."""
    if ".." in Path(chosen).parts or not (root / chosen).is_dir() or Path(chosen).is_absolute():
        raise UsageError(f"--media {chosen}: no such folder below {root}")
    return root / chosen


def media_folder(root: Path, candidates: Sequence[str], chosen: str | None, what: str) -> Path:
    """The folder of the media below `root`: `chosen` (--media), or the only one of `candidates` that exists.

    DataError for none, and for several, because one dataset's forms give different results. A candidate inside another
    one wins: archives unpack into a folder of their own name, and crops are put beside the frames they come from.
    """
    if chosen is not None:
        return chosen_folder(root, chosen)
    found = [name for name in candidates if (root / name).is_dir()]
    if not found:
        raise DataError(f"{root}: no {what} (looked for {', '.join(candidates)}; --media FOLDER names another)")
    found = [name for name in found if not any(other.startswith(f"{name}/") for other in found)]
    if len(found) > 1:
        raise DataError(f"{root}: several forms of the media ({', '.join(found)}): name one with --media FOLDER")
    logger.info("%s: media in %s", root, found[0])
    return root / found[0]


def tell_others(folder: Path, count: int) -> None:
    """One line about the files of a folder that are no media of the dataset."""
    if count:
        logger.warning("%s: %d other files left out", folder, count)


def _is_litter(name: str) -> bool:
    """Hidden files, and the folder that archives made on a Mac bring along."""
    return name[0] == "." or name == "__MACOSX"


def _what(entry: os.DirEntry[str]) -> What:
    if entry.is_symlink():
        return "link"
    return "folder" if entry.is_dir(follow_symlinks=False) else "file"


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
