"""Looks at one medium: what it says of itself, and whether that holds when every frame is decoded."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path

from s4d.data.manifest import Kind, ManifestRow
from s4d.data.media import list_frames, open_media
from s4d.data.media_check import find_damaged
from s4d.data.media_limits import media_path
from s4d.data.scan.digest import content_digest, stamp
from s4d.data.scan.ending import missing_end
from s4d.data.scan.look import Look
from s4d.data.scan.perceptual import small_picture
from s4d.data.scan.probe_video import probe_video
from s4d.data.scan.record import Probe
from s4d.errors import DataError

NUMBER = re.compile(r"(\d+)(?!.*\d)")


def probe_medium(root: Path, path: str, kind: Kind, *, quick: bool) -> Probe:
    """Facts about `root / path`; a medium that cannot be used is a `Probe` with an error, never an exception.

    `quick` reads headers and directory entries alone: no hashes, no pixels.
    """
    size, changed = stamp(root / path, kind)
    start = Probe(path=path, kind=kind, size=size, mtime_ns=changed, quick=quick)
    row = ManifestRow(sample_id=path, path=path, kind=kind, dataset="", split="")
    try:
        damage = find_damaged([row], root).get(path)
        if damage is not None:
            raise DataError(damage)
        if kind == "video":
            return probe_video(root / path, start, quick=quick)
        files = [root / path] if kind == "image" else list(list_frames(root / path))
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always")
            found = _probe_images(files, start, quick=quick)
        return replace(found, warnings=len(complaints))
    except DataError as error:
        digest = "" if quick else _digest_of(root, path, kind)
        return replace(start, error=" ".join(str(error).split()), sha256=digest)


def _digest_of(root: Path, path: str, kind: Kind) -> str:
    """Digest of a medium that failed to decode; empty for what is not there or no regular file inside `root`."""
    try:
        place = media_path(root, path, path)
        files = list_frames(place) if kind == "frames" else [place]
        return content_digest(files) if all(file.is_file() for file in files) else ""
    except (DataError, OSError, ValueError):
        return ""


def _probe_images(files: list[Path], start: Probe, *, quick: bool) -> Probe:
    """A still image, or the frames of a folder, every one of which is decoded unless `quick`."""
    media = open_media(files[0].parent if start.kind == "frames" else files[0], start.kind)
    names = [path.name for path in files]
    found = replace(
        start,
        frames=len(files),
        width=media.size[0],
        height=media.size[1],
        codec=files[0].suffix.lower().lstrip("."),
        order_differs=names != sorted(names),
        missing_numbers=_missing_numbers(names),
        suffixes=tuple(sorted({path.suffix.lower() for path in files})) if start.kind == "frames" else (),
    )
    if quick:
        return found
    look = Look(announced=len(files))
    sizes = set()
    for index, path in enumerate(files):
        pixels = media.frames([index])[index]
        lacks = missing_end(path)
        if lacks is not None:
            raise DataError(f"{path}: {lacks}")
        sizes.add(pixels.shape)
        look.add(small_picture(pixels))
    return replace(found, sizes=len(sizes), sha256=content_digest(files), **look.facts())


def _missing_numbers(names: list[str]) -> int:
    """How many numbers lie between the first and the last frame's without a file; 0 where names have no numbers."""
    numbers = {int(match[1]) for match in map(NUMBER.search, names) if match and len(match[1]) < 18}
    if len(numbers) < len(names):
        return 0
    return max(numbers) - min(numbers) + 1 - len(numbers)
