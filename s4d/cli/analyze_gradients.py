"""`s4d analyze gradients`: whether the gradients of both tasks agree, at the checkpoints of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s4d.cli.output import AsJson, print_json, print_table


def gradients(
    runs: Annotated[list[Path], typer.Argument(help="Fine-tuning runs on images and videos.", show_default=False)],
    batches: Annotated[int, typer.Option(help="Batches of each task, an even number.")] = 8,
    samples: Annotated[int, typer.Option(help="Most samples of each source in a batch.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the order of samples and their augmentation.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Cosine between the tasks' gradients at every checkpoint kept (see engine.keep_every); trains nothing."""
    from s4d.analysis.correlation.gradients import gradient_study
    from s4d.analysis.correlation.training_parts import gradient_tables
    from s4d.cli.progress import show_progress

    with show_progress("checkpoints on batches") as progress:
        study = gradient_study(runs, batches=batches, samples=samples, seed=seed, progress=progress)
    if as_json:
        print_json(study.to_dict())
        return
    for table in gradient_tables(study):
        print_table(table.columns, table.rows)
