"""Makes a cache: probes all media, gives each its place, fills shard by shard; can be ended and continued anywhere.

A shard is made as `<name>.part` and gets its own name when it is whole and on the disk. The journals name what is done,
so a second call does only the rest, and writes the very same bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4d.atomic_files import write_atomically
from s4d.data.cache.fill import Filling
from s4d.data.cache.index import BEGUN, DONE, describe, read_description, read_index, write_index
from s4d.data.cache.journal import Journal
from s4d.data.cache.layout import media_of, place_records
from s4d.data.cache.probe import probe_media
from s4d.data.cache.recipe import CacheRecipe
from s4d.data.cache.shards import GIB, Shards
from s4d.data.manifest_io import read_manifest
from s4d.data.workers import in_order
from s4d.errors import DataError

PROBED, FILLED = "probed.jsonl", "filled.jsonl"
SKIPPING = "--on-error skip leaves such media out"


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheOptions:
    """How a cache is made; only the size of the shards is seen in its bytes."""

    shard_bytes: int = GIB
    workers: int = 1
    skip_unreadable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheReport:
    """What a cache holds; `left_out` has a line for each unreadable medium, `already_done` media of earlier calls."""

    id: str
    media: int
    frames: int
    shards: int
    size: int
    left_out: tuple[str, ...]
    already_done: int


# Stage (probe, fill), media done and in all, bytes that the stage is about (0: none).
Progress = Callable[[str, int, int, int], None]


def write_cache(
    manifest: Path, folder: Path, recipe: CacheRecipe, options: CacheOptions, progress: Progress
) -> CacheReport:
    """Make the cache of a manifest in `folder`, or finish it; DataError names what is in the way.

    An unreadable medium ends it, unless it is to be skipped: then it is left out and listed.
    """
    content = read_manifest(manifest)
    if not content.root.is_dir():
        raise DataError(f"{manifest}: root: no such folder {content.root}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot make this folder: {error.strerror}") from error
    description = describe(content.fingerprint, recipe)
    with _alone(folder):
        _claim(folder, manifest, description)
        if (folder / DONE).is_file():
            _clear(folder)
            return _report(folder, already_done=len(read_index(folder).media))
        media = media_of(content.rows)
        with Journal(folder / PROBED) as probed, Journal(folder / FILLED) as filled:
            count = _Counted(progress, "probe", len(media))
            probes = probe_media(
                content.root, media, recipe.order, probed, workers=options.workers, advance=count.advance
            )
            unreadable = [probe.problem for probe in probes if probe.problem]
            if unreadable and not options.skip_unreadable:
                raise DataError(f"{unreadable[0]} ({len(unreadable)} unreadable; {SKIPPING})")
            layout = place_records(probes, recipe, options.shard_bytes)
            shards = Shards(
                folder=folder, id=description["id"], media=media, probes=probes, layout=layout, journal=filled
            )
            done = shards.resume(keep_problems=options.skip_unreadable)
            shards.check_space()
            count = _Counted(progress, "fill", len(media), sum(layout.sizes))
            count.advance(done)
            _fill(shards, content.root, recipe.order, options, count.advance)
        write_index(folder, description, media, layout, shards.crcs(), shards.problems())
        _clear(folder)
        return _report(folder, already_done=done)


def _fill(shards: Shards, root: Path, order: str, options: CacheOptions, advance: Callable[[int], None]) -> None:
    missing = shards.missing()
    filling = Filling(root, shards.media, shards.layout.records, shards.parts, order)
    workers = options.workers if len(missing) > 1 else 0
    with contextlib.closing(in_order(filling, missing, workers)) as results:
        for number, done in zip(missing, results, strict=True):
            if done.problem and not options.skip_unreadable:
                raise DataError(f"{done.problem} ({SKIPPING})")
            shards.add(number, done)
            advance(1)


class _Counted:
    """Counts media of one stage for the one who watches."""

    def __init__(self, progress: Progress, stage: str, total: int, size: int = 0) -> None:
        self.told = progress
        self.stage, self.total, self.size = stage, total, size
        self.done = 0
        progress(stage, 0, total, size)

    def advance(self, count: int) -> None:
        if count:
            self.done += count
            self.told(self.stage, self.done, self.total, self.size)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second process out of the folder; the lock ends with this process however it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems lock no folders
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(f"{folder}: another process is writing this cache") from error
        yield
    finally:
        os.close(handle)


def _claim(folder: Path, manifest: Path, description: dict[str, Any]) -> None:
    """Say whose cache this folder is going to be, unless it is another's."""
    found = next((folder / name for name in (DONE, BEGUN) if (folder / name).is_file()), None)
    if found is None:
        # What a killed writer left aside is hidden; anything else is somebody's.
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise DataError(f"{folder}: is not empty and holds no cache; choose another folder")
        write_atomically(folder / BEGUN, f"{json.dumps(description)}\n")
        return
    other = read_description(found)
    for name in ("manifest", "recipe"):
        if other[name] != description[name]:
            what = "another content of the manifest" if name == "manifest" else f"recipe {json.dumps(other[name])}"
            raise DataError(f"{found}: {name}: this folder holds a cache of {what}, not of {manifest} as asked")


def _clear(folder: Path) -> None:
    """Remove what only an unfinished cache needs, and what killed writers left aside."""
    for path in (folder / PROBED, folder / FILLED, folder / BEGUN, *folder.glob(".*.tmp")):
        path.unlink(missing_ok=True)


def _report(folder: Path, *, already_done: int) -> CacheReport:
    index = read_index(folder)
    kept = -(-index.column("frame_count") // index.column("step"))
    kept[list(index.problems)] = 0
    return CacheReport(
        id=index.id,
        media=len(index.media),
        frames=int(kept.sum()),
        shards=len(index.shards),
        size=sum(index.shards),
        left_out=tuple(index.problems.values()),
        already_done=already_done,
    )
