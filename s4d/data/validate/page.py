"""Writes what was found as a folder: a page for people, a file for programs, the contact sheet."""

from __future__ import annotations

import io
from pathlib import Path

from s4d.analysis.data_page import Group, render_data_page
from s4d.atomic_files import write_atomically
from s4d.data.manifest_io import read_manifest
from s4d.data.validate.findings import Findings
from s4d.data.validate.sheet import contact_sheet
from s4d.json_text import to_json

AXES = {
    "face_area": ("share of the picture that the face box takes", "share"),
    "eye_angle": ("tilt of the eye line", "degrees, positive: down to the right"),
}


def write_page(findings: Findings, out: Path, *, workers: int) -> Path:
    """Write index.html, contact_sheet.png and findings.json into `out`; returns the page's path.

    `findings` must be those of a manifest that could be read.
    """
    sheet = contact_sheet(read_manifest(findings.manifest), workers=workers)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomically(out / "contact_sheet.png", buffer.getvalue())
    write_atomically(out / "findings.json", to_json(findings.document()))
    severities = findings.severities
    page = render_data_page(
        title=f"S4D data: {findings.manifest.name}",
        tiles=[
            ("rows", f"{findings.rows:,}"),
            ("media", f"{findings.media:,}"),
            ("errors", f"{severities['error']:,}"),
            ("warnings", f"{severities['warning']:,}"),
            ("notes", f"{severities['note']:,}"),
        ],
        looked_at=findings.looked_at,
        groups=_groups(findings),
        counts=findings.counts,
        histograms={AXES[name][0]: (values, AXES[name][1]) for name, values in findings.values.items()},
        sheet=sheet,
    )
    write_atomically(out / "index.html", page)
    return out / "index.html"


def _groups(findings: Findings) -> list[Group]:
    """Findings by code, worst first."""
    groups: dict[tuple[str, str], list[str]] = {}
    for item in findings.items:
        groups.setdefault((item.severity, item.code), []).append(item.line())
    return [Group(severity=severity, code=code, lines=tuple(lines)) for (severity, code), lines in groups.items()]
