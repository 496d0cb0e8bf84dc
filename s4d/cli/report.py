"""`s4d report`: figures and numbers of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s4d.cli.output import AsJson, print_json, print_lines, relative


def report(
    folder: Annotated[Path, typer.Argument(help="A run folder, or a folder of runs.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Write report/index.html (one file) and report/report.json (every number) into the folder."""
    from s4d.analysis.report import write_report

    page, numbers = write_report(folder)
    if as_json:
        print_json(numbers)
    else:
        print_lines([f"wrote {relative(page)}", f"wrote {relative(page.with_name('report.json'))}"])
