"""Runs every check on one manifest."""

from __future__ import annotations

from pathlib import Path

from s4d.data.manifest_io import read_manifest
from s4d.data.validate.findings import SEVERITIES, Finding, Findings
from s4d.data.validate.subject import Subject
from s4d.errors import DataError

STRIDE = 4


def validate_manifest(
    path: Path | str,
    *,
    against: Path | str | None = None,
    scan: Path | str | None = None,
    sample: int = 300,
    stride: int = STRIDE,
) -> Findings:
    """Check a manifest and its media; what is wrong with the data is a finding, never an exception.

    `against` is a run, checkpoint or model folder whose class names must fit; `scan` a file of `s4d data scan`, without
    which up to `sample` media are decoded; `stride` the distance of the frames that training takes.
    """
    path = Path(path)
    try:
        manifest = read_manifest(path)
    except DataError as error:
        return Findings(manifest=path, items=(Finding(severity="error", code="manifest", text=str(error)),))
    subject = Subject(path=path, manifest=manifest, stride=stride)
    items: list[Finding] = []
    items.sort(key=lambda item: SEVERITIES.index(item.severity))
    return Findings(
        manifest=path,
        items=tuple(items),
        rows=len(manifest.rows),
        media=len(subject.media),
        counts=subject.class_counts(),
    )
