"""`s4d analyze routing`: which experts stills, clips and classes choose in trained runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s4d.cli.evaluate import Split
from s4d.cli.output import AsJson, print_json, print_table


def routing(
    runs: Annotated[list[Path], typer.Argument(help="Fine-tuning runs with experts.", show_default=False)],
    split: Annotated[Split, typer.Option(help="Which held-out data of each run.")] = Split.test,
    draws: Annotated[int, typer.Option(help="Random draws of each test and interval.")] = 1000,
    dead_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the choices below which an expert is dead.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(help="Of the random draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Distance between the routing of images and of videos, dead experts and what experts tell of the class."""
    from s4d.analysis.correlation.routing import routing_study
    from s4d.analysis.correlation.training_parts import routing_tables
    from s4d.cli.progress import show_progress

    with show_progress("batches") as progress:
        study = routing_study(
            runs,
            split=split.value,
            dead_share=dead_share,
            draws=draws,
            seed=seed,
            progress=lambda _, done, total: progress(done, total),
        )
    if as_json:
        print_json(study.to_dict())
        return
    for table in routing_tables(study):
        print_table(table.columns, table.rows)
