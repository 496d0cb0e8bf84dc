"""`s4d analyze correlation`: how static and dynamic recognition relate in trained runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from s4d.cli.out_folder import refuse_unwritable
from s4d.cli.output import AsJson, print_json, print_lines, relative


class Split(StrEnum):
    """Splits whose samples are shown."""

    test = "test"
    val = "val"


def correlation(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="A run with both tasks, then any others to set beside it.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for correlation.html and correlation.json.", show_default=False)],
    *,
    split: Annotated[Split, typer.Option(help="Which held-out data of the first run.")] = Split.test,
    static: Annotated[str | None, typer.Option(help="The image head, where the run has several.")] = None,
    dynamic: Annotated[str | None, typer.Option(help="The video head, where the run has several.")] = None,
    scaling: Annotated[Path | None, typer.Option(help="Folder of results of `s4d science run` for part (f).")] = None,
    as_json: AsJson = False,
) -> None:
    """Study transfer, representations, gradients, routing and confusions of both tasks in one page and one document."""
    from s4d.analysis.correlation.correlate import correlate
    from s4d.cli.progress import show_progress

    refuse_unwritable(out)
    with show_progress("batches") as progress:
        page, numbers = correlate(
            runs, out, split=split.value, static=static, dynamic=dynamic, scaling=scaling, progress=progress
        )
    if as_json:
        print_json(numbers)
    else:
        print_lines([f"wrote {relative(page)}", f"wrote {relative(page.with_name('correlation.json'))}"])
