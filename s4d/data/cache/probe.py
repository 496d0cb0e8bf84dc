"""The first pass: how many frames each medium has and how large they are, in processes, without decoding."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s4d.data.cache.journal import Journal
from s4d.data.cache.layout import Medium, Probe
from s4d.data.media import open_media
from s4d.data.media_limits import media_path
from s4d.data.workers import in_order
from s4d.errors import DataError


def stamp_of(path: Path) -> str:
    """Size and time of last change, by which a replaced file is told from the one seen before."""
    try:
        stat = os.stat(path)
    except OSError:
        return ""
    return f"{stat.st_size}:{stat.st_mtime_ns}"


@dataclass(frozen=True, slots=True)
class _Probes:
    """Probe number n, computable in any process."""

    root: Path
    media: tuple[Medium, ...]
    order: str

    def __getitem__(self, number: int) -> Probe:
        medium = self.media[number]
        stamp = stamp_of(self.root / medium.path)
        try:
            path = media_path(self.root, medium.path, str(self.root))
            opened = open_media(path, medium.kind, self.order)
        except DataError as error:
            return Probe(stamp=stamp, problem=str(error))
        return Probe(stamp=stamp, frame_count=opened.frame_count, size=opened.size)


def probe_media(
    root: Path,
    media: tuple[Medium, ...],
    order: str,
    journal: Journal,
    *,
    workers: int,
    advance: Callable[[int], None],
) -> list[Probe]:
    """A probe of each medium; those that the journal has are opened again only if their file changed since."""
    known = {Medium(line["path"], line["kind"]): _of_line(line) for line in journal.lines}
    probes: list[Probe | None] = [known.get(medium) for medium in media]
    missing = []
    for number, (medium, probe) in enumerate(zip(media, probes, strict=True)):
        # A file that was unreadable may have been mended within the clock's tick, so it gets another chance.
        if probe is None or probe.problem or probe.stamp != stamp_of(root / medium.path):
            missing.append(number)
    advance(len(media) - len(missing))
    for number, probe in zip(missing, _opened(root, media, order, missing, workers), strict=True):
        probes[number] = probe
        journal.append({**asdict(media[number]), **asdict(probe)})
        advance(1)
    return [probe for probe in probes if probe is not None]


def _opened(root: Path, media: tuple[Medium, ...], order: str, missing: Sequence[int], workers: int) -> Any:
    return in_order(_Probes(root, media, order), missing, workers if len(missing) > 1 else 0)


def _of_line(line: dict[str, Any]) -> Probe:
    width, height = line["size"]
    return Probe(stamp=line["stamp"], frame_count=line["frame_count"], size=(width, height), problem=line["problem"])
