"""`s4d bench projection`: what the kernels should reach on a GPU that is not here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from s4d.cli.output import print_json, print_lines, print_table
from s4d.errors import UsageError


def projection(
    gpu: Annotated[str, typer.Option(help="The card whose limits to use: h200.")] = "h200",
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Where to write the document, - for stdout.")
    ] = None,
) -> None:
    """Project times from analytic work and assumed efficiencies; no measurement."""
    from kernels.bench.projection import GPUS, document

    if gpu not in GPUS:
        raise UsageError(f"--gpu: expected one of {', '.join(GPUS)}, got {gpu!r}")
    projected: dict[str, Any] = document(gpu)
    if json == "-":
        print_json(projected)
        return
    limits = projected["ceiling"]
    rates = f"{limits['flops'] / 1e12:g} TFLOP/s, {limits['copy'] / 1e12:g} TB/s"
    print_lines([f"PROJECTION for {gpu} ({rates}), not a measurement"])
    print_table(
        ("op", "case", "phase", "projected us", "floor us", "TFLOP/s", "copy share"),
        [
            (
                row["op"],
                row["case"],
                row["phase"],
                f"{row['projected_ms'] * 1e3:.1f}",
                f"{row['roofline_ms'] * 1e3:.1f}",
                f"{row['flops_per_second'] / 1e12:.0f}",
                f"{row['copy_share']:.0%}",
            )
            for row in projected["rows"]
        ],
    )
    from s4d.cli.bench_tables import show_goals

    show_goals(projected["goals"])
    if json is not None:
        from s4d.cli.bench_files import write_document

        write_document(Path(json), projected)
