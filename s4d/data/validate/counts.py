"""Sample counts against those of the published lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from s4d.data.validate.findings import Finding
from s4d.data.validate.subject import Subject, part_name

# A figure that is usually given may be off by so much.
APPROXIMATE = 0.01
SHOWN_CLASSES = 3


class Published(Protocol):
    """One published list: samples of a split and fold, by class where known."""

    @property
    def split(self) -> str: ...
    @property
    def fold(self) -> int | None: ...
    @property
    def total(self) -> int: ...
    @property
    def classes(self) -> Mapping[str, int]: ...
    @property
    def source(self) -> str: ...
    @property
    def approximate(self) -> bool: ...


def check_counts(subject: Subject) -> Iterator[Finding]:
    """Every part of the manifest must have the counts of one of the lists published for it."""
    from s4d.datasets.published import PUBLISHED

    lists: Sequence[Published] = PUBLISHED.get(subject.manifest.dataset, ())
    if not lists:
        return
    counts = subject.class_counts()
    for fold, split in subject.parts:
        part = part_name(fold, split)
        candidates = [entry for entry in lists if entry.split == split and entry.fold in (fold, None)]
        if candidates:
            yield _compare(part, counts[part], candidates)


def _compare(part: str, counts: Mapping[str, int], candidates: Sequence[Published]) -> Finding:
    total = sum(counts.values())
    for entry in candidates:
        if _agrees(entry, total, counts):
            text = f"{part}: {total} samples, as published ({entry.source})"
            return Finding(severity="note", code="counts-agree", text=text)
    nearest = min(candidates, key=lambda entry: abs(entry.total - total))
    text = f"{part}: {total} samples, {nearest.total} published ({nearest.source})"
    known = nearest.classes.items()
    off = [f"{name} {counts.get(name, 0)} of {count}" for name, count in known if counts.get(name) != count]
    if off:
        text += f": {', '.join(off[:SHOWN_CLASSES])}" + (", ..." if len(off) > SHOWN_CLASSES else "")
    return Finding(severity="warning", code="counts", text=text)


def _agrees(entry: Published, total: int, counts: Mapping[str, int]) -> bool:
    if entry.approximate:
        return abs(total - entry.total) <= APPROXIMATE * entry.total
    return total == entry.total and all(counts.get(name) == count for name, count in entry.classes.items())
