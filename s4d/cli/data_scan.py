"""`s4d data scan`: look at every file of a prepared dataset once."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from s4d.cli.output import AsJson, print_json, print_lines, relative

SHOWN = 20


def scan(
    manifest: Annotated[Path, typer.Argument(help="Manifest whose media to look at.", show_default=False)],
    *,
    out: Annotated[Path, typer.Option(help="Scan file (.jsonl) to write or to continue.", show_default=False)],
    workers: Annotated[int, typer.Option(min=0, help="Decoding processes; 0: one for each core.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Read headers only: no pixels, no hashes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Decode every file and append a line about each: frames, size, rate, damage, hashes, scene cuts.

    Call again to continue or to look at what is new, changed or had an error. `s4d data validate --scan` reads it.

    Ends with status 1 where a file cannot be used.
    """
    from s4d.cli.progress import show_progress
    from s4d.data.scan.run import scan_manifest

    with show_progress("scanned") as progress:
        report = scan_manifest(manifest, out, workers=workers, quick=quick, progress=progress)
    if as_json:
        failed = [{"path": probe.path, "error": probe.error} for probe in report.failed]
        print_json({**asdict(report), "scan": relative(out), "failed": failed})
    else:
        lines = [probe.error or "" for probe in report.failed[:SHOWN]]
        if len(report.failed) > SHOWN:
            lines.append(f"... and {len(report.failed) - SHOWN} more")
        earlier = f", {report.known} known from before" if report.known else ""
        counted = f"{report.scanned} of {report.media} media looked at{earlier}, {len(report.failed)} with errors"
        print_lines([*lines, f"{relative(out)}: {counted}"])
    if report.failed:
        raise typer.Exit(1)
