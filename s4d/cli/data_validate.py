"""`s4d data validate`: what is wrong with a prepared dataset, before anything is trained on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4d.cli.out_folder import refuse_unwritable
from s4d.cli.output import AsJson, print_json, print_lines, relative

if TYPE_CHECKING:
    from s4d.data.validate.findings import Findings

SHOWN = 20

Manifest = Annotated[Path, typer.Argument(help="Manifest to check.", show_default=False)]
Against = Annotated[
    Path | None,
    typer.Option(help="Run, checkpoint or model folder whose class names must fit.", show_default=False),
]
Scan = Annotated[
    Path | None, typer.Option(help="File of `s4d data scan`; nothing is decoded then.", show_default=False)
]
Out = Annotated[
    Path | None, typer.Option(help="Folder for index.html, findings.json and a contact sheet.", show_default=False)
]
Sample = Annotated[int, typer.Option(min=0, help="Media to decode where there is no scan.")]
Stride = Annotated[int, typer.Option(min=1, help="Frames between two sampled frames of a clip, as in data.sources.")]
Workers = Annotated[int, typer.Option(min=0, help="Decoding processes; 0: one for each core.")]


def validate(
    manifest: Manifest,
    *,
    against: Against = None,
    scan: Scan = None,
    out: Out = None,
    sample: Sample = 300,
    stride: Stride = 4,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Check counts, files, leakage between splits, label order, frames, faces and class balance.

    Ends with status 1 where anything is an error.
    """
    from s4d.cli.progress import show_progress
    from s4d.data.validate import validate_manifest

    if out is not None:
        refuse_unwritable(out)
    with show_progress("decoded") as progress:
        findings = validate_manifest(
            manifest, against=against, scan=scan, sample=sample, stride=stride, workers=workers, progress=progress
        )
    page = None
    if out is not None and not findings.of("manifest"):
        from s4d.data.validate.page import write_page

        page = write_page(findings, out, workers=workers or os.cpu_count() or 1)
    if as_json:
        print_json(findings.document())
    else:
        print_lines([*describe(findings), *([f"wrote {relative(page)}"] if page else [])])
    if findings.errors:
        raise typer.Exit(1)


def describe(findings: Findings) -> list[str]:
    """Findings by code, long groups cut, then what was looked at and how many there are."""
    groups: dict[str, list[str]] = {}
    for item in findings.items:
        groups.setdefault(item.code, []).append(f"{item.severity}: {item.line()} [{item.code}]")
    lines = []
    for code, group in groups.items():
        lines += group[:SHOWN]
        if len(group) > SHOWN:
            lines.append(f"... and {len(group) - SHOWN} more [{code}]")
    counted = ", ".join(f"{count} {severity}s" for severity, count in findings.severities.items())
    if findings.looked_at:
        lines.append(findings.looked_at)
    return [*lines, f"{relative(findings.manifest)}: {findings.rows} rows, {findings.media} media: {counted}"]
