"""Subjects of checks, made of rows and of what a scan would have found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest
from s4d.data.scan.record import Probe
from s4d.data.validate.subject import Subject

CLASSES = ("calm", "glad", "sad")


def row(path: str, **fields: object) -> ManifestRow:
    values: dict[str, object] = {
        "sample_id": path,
        "path": path,
        "kind": "image",
        "dataset": "made",
        "split": "train",
        "label": CLASSES[0],
        **fields,
    }
    return ManifestRow(**values)


def probe(path: str, **fields: object) -> Probe:
    values: dict[str, object] = {
        "path": path,
        "kind": "image",
        "size": 10,
        "mtime_ns": 1,
        "frames": 1,
        "width": 100,
        "height": 100,
        **fields,
    }
    return Probe(**values)


def subject(rows: Iterable[ManifestRow], probes: Sequence[Probe] = (), **fields: object) -> Subject:
    names = ("root", "classes", "dataset", "crop")
    header = {"root": Path("nowhere"), "classes": CLASSES, "dataset": "made", "crop": ""}
    header |= {name: fields.pop(name) for name in names if name in fields}
    manifest = Manifest(rows=tuple(rows), fingerprint="", **header)
    values: dict[str, object] = {"stride": 4, "probes": {found.path: found for found in probes}, **fields}
    return Subject(path=Path("made.csv"), manifest=manifest, **values)


@pytest.fixture
def make_row() -> Callable[..., ManifestRow]:
    return row


@pytest.fixture
def make_probe() -> Callable[..., Probe]:
    return probe


@pytest.fixture
def make_subject() -> Callable[..., Subject]:
    return subject
