"""`s4d evaluate`: score a finished run again, in this process."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from s4d.cli.output import AsJson, print_json, print_table


class Split(StrEnum):
    """Splits that can be scored."""

    test = "test"
    val = "val"


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a fine-tuning run.", show_default=False)],
    split: Annotated[Split, typer.Option(help="Which held-out data.")] = Split.test,
    as_json: AsJson = False,
) -> None:
    """Load the newest checkpoint of a run and score it; nothing in the run folder changes."""
    scores = score_run(run, split.value)
    if as_json:
        print_json({"run": str(run), "split": split.value, "scores": scores})
    else:
        print_table(("score", "value"), [(name, f"{value:.4f}") for name, value in scores.items()])


def score_run(run: Path, split: str) -> dict[str, float]:
    """Scores of the run's newest weights; UsageError for a run without heads, DataError for weights that do not fit."""
    import torch

    from s4d.config import load
    from s4d.errors import DataError, UsageError
    from s4d.models.folder import find_model, read_tensors
    from s4d.tasks import build_task
    from s4d.tasks.crop_provenance import crops_of, warn_of_changed_crops

    config = load(run / "config.yaml", ["model.init_from=null"])
    if config.task != "finetune":
        raise UsageError(f"{run}: a {config.task} run has no heads to score")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = build_task(config, rank=0, world_size=1, device=device)
    model = find_model(run)
    warn_of_changed_crops(model, crops_of(config))
    try:
        task.module.load_state_dict(read_tensors(model))
    except RuntimeError as error:
        raise DataError(
            f"{model}: does not fit {run / 'config.yaml'}: {str(error).splitlines()[-1].strip()}"
        ) from error
    scores = task.evaluate(task.module, split)
    if not scores:
        raise UsageError(f"{run}: has no {split} split (data.val_share is {config.data.val_share:g})")
    return scores
