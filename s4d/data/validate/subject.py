"""What the checks look at: the manifest, what is known about its media, and what it is compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from s4d.data.manifest import Kind, ManifestRow
from s4d.data.manifest_io import Manifest
from s4d.data.scan.record import Probe


@dataclass(frozen=True, kw_only=True, slots=True)
class Medium:
    """One file or folder of the manifest and the rows that use it: (row number from 1, row)."""

    path: str
    kind: Kind
    rows: tuple[tuple[int, ManifestRow], ...]

    @property
    def first_row(self) -> int:
        """Number of the first row that uses it."""
        return self.rows[0][0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A trained model: class names of its heads, and the crop recipes that it saw, as far as known."""

    folder: Path
    heads: Mapping[str, tuple[str, ...]]
    crops: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A manifest with everything the checks may use.

    `probes` holds what is known of media, from a scan file (`scanned`) or of a sample; `changed` are those whose
    content differs from an earlier look in the same scan file. `reference` is the model that the data must fit.
    `stride` is the distance of sampled frames that the data are meant for.
    """

    path: Path
    manifest: Manifest
    stride: int
    probes: Mapping[str, Probe] = field(default_factory=dict)
    scanned: bool = False
    changed: Mapping[str, tuple[Probe, Probe]] = field(default_factory=dict)
    reference: Reference | None = None

    @cached_property
    def media(self) -> dict[str, Medium]:
        """Every medium once, by path, in the manifest's order."""
        rows: dict[str, list[tuple[int, ManifestRow]]] = {}
        for number, row in enumerate(self.manifest.rows, start=1):
            rows.setdefault(row.path, []).append((number, row))
        return {path: Medium(path=path, kind=found[0][1].kind, rows=tuple(found)) for path, found in rows.items()}

    @cached_property
    def parts(self) -> dict[tuple[int | None, str], list[ManifestRow]]:
        """Rows of each (fold, split)."""
        parts: dict[tuple[int | None, str], list[ManifestRow]] = {}
        for row in self.manifest.rows:
            parts.setdefault((row.fold, row.split), []).append(row)
        return parts

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Rows of each class by part, named `train` or `train 1`; classes in head order, rows without a label last."""
        table = {}
        for (fold, split), rows in self.parts.items():
            found = Counter(row.label for row in rows)
            counts = {name: found.get(name, 0) for name in self.manifest.classes}
            if found.get(None):
                counts["(no label)"] = found[None]
            table[part_name(fold, split)] = counts
        return table

    def known(self) -> Iterator[tuple[Medium, Probe]]:
        """Media that were looked at, with what was found."""
        for path, medium in self.media.items():
            probe = self.probes.get(path)
            if probe is not None:
                yield medium, probe


def part_name(fold: int | None, split: str) -> str:
    """How a split of a fold is called in findings."""
    return split if fold is None else f"{split} {fold}"
