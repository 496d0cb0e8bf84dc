"""`s4d folds`: train and test a configuration on every fold of its dataset, and put the results into one table."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4d.cli.completion import complete_config
from s4d.cli.output import AsJson, print_json, print_lines, print_table, relative, shown

if TYPE_CHECKING:
    from s4d.analysis.folds.runs import FoldRun
    from s4d.analysis.folds.tables import FoldReport


def folds(
    config: Annotated[
        Path,
        typer.Argument(help="Configuration of a fine-tuning run.", show_default=False, autocompletion=complete_config),
    ],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value ...", show_default=False)] = None,
    chosen: Annotated[
        str | None, typer.Option("--folds", help="Such as 1,2,3; all of the manifest when left out.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs fold_1, fold_2 ... and of the table.", show_default=False)
    ] = None,
    table_only: Annotated[bool, typer.Option("--table-only", help="Train nothing; use what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run all folds, one after the other, and write mean, deviation and pooled scores; finished folds are kept.

    Called again it continues where it stopped. A fold that fails is named, and the others go on.
    """
    from s4d.analysis.folds.runs import default_folder, fold_run, folds_of, shared_name
    from s4d.analysis.folds.tables import write_report
    from s4d.analysis.run_folder import MARKS
    from s4d.config import load
    from s4d.errors import DataError, UsageError

    given = overrides or []
    base = load(config, given)
    if base.task != "finetune":
        raise UsageError(f"{config}: task: a {base.task} run has no scores to put into a table")
    folder = default_folder(base) if out is None else out
    if any((folder / mark).exists() for mark in MARKS):
        raise UsageError(f"--out: {folder} is a run itself; the folds need a folder of their own")
    numbers = parse_folds(chosen) if chosen is not None else folds_of(base)
    runs = [fold_run(base, number, folder) for number in numbers]
    failed = {} if table_only else train_folds(runs, config, given)
    report = collect(runs, failed, shared_name(base))
    if report.heads:
        files = write_report(report, folder)
        _show(report, files, as_json)
    if failed or not report.heads:
        reasons = "; ".join(f"fold {number}: {reason}" for number, reason in report.missing.items())
        raise DataError(f"{folder}: {len(report.missing)} of {len(runs)} folds are missing: {reasons}")


def parse_folds(text: str) -> tuple[int, ...]:
    """Numbers of `1,2,3` in ascending order; UsageError for anything else."""
    from s4d.errors import UsageError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--folds: expected numbers such as 1,2,3, got {text!r}")
    numbers = sorted(map(int, parts))
    if len(set(numbers)) != len(numbers):
        raise UsageError(f"--folds: a fold is given twice in {text!r}")
    return tuple(numbers)


def train_folds(runs: list[FoldRun], config: Path, overrides: list[str]) -> dict[int, str]:
    """Train each fold that is not finished; returns those that failed, with the reason."""
    from s4d.analysis.folds.runs import is_finished, refuse_another_run
    from s4d.errors import UserError

    failed: dict[int, str] = {}
    for run in runs:
        begin = time.monotonic()
        try:
            if is_finished(run):
                refuse_another_run(run, config, overrides)
                _say(f"fold {run.fold}: finished before")
                continue
            _say(f"fold {run.fold}: training in {relative(run.path)}, log in {relative(run.path)}.log")
            _train(run, config, overrides)
            _say(f"fold {run.fold}: done after {time.monotonic() - begin:.0f} s")
        except UserError as error:
            failed[run.fold] = str(error)
            _say(f"fold {run.fold}: failed: {error}")
    return failed


def _train(run: FoldRun, config: Path, overrides: list[str]) -> None:
    import torch

    from s4d.cli.training_process import train_run

    train_run(config, [*overrides, *run.overrides], run.path, on_gpu=torch.cuda.is_available(), limit=math.inf)


def collect(runs: list[FoldRun], failed: dict[int, str], name: str) -> FoldReport:
    """What the finished folds scored, and why the others are missing."""
    from s4d.analysis.folds.results import read_folds
    from s4d.analysis.folds.runs import missing_because, refuse_unlike
    from s4d.analysis.folds.tables import FoldReport

    missing: dict[int, str] = {}
    for run in runs:
        reason = failed.get(run.fold) or missing_because(run)
        if reason is not None:
            missing[run.fold] = reason
    there = [run for run in runs if run.fold not in missing]
    refuse_unlike(there)
    heads = read_folds({run.fold: run.path for run in there})
    return FoldReport(name=name, folds=tuple(run.fold for run in runs), missing=missing, heads=heads)


def _show(report: FoldReport, files: list[Path], as_json: bool) -> None:
    if as_json:
        print_json(report.to_dict())
        return
    for head in report.heads:
        print_lines([f"{head.source} ({head.modality}), {head.weights} weights"])
        print_table(
            ("fold", "samples", "UAR", "WAR"),
            [(line.label, _text(line.samples, "d"), _text(line.uar), _text(line.war)) for line in head.rows],
        )
        print_lines([f"not pooled: {head.not_pooled}"] if head.not_pooled else [])
    print_lines([f"fold {number} is missing: {reason}" for number, reason in report.missing.items()])
    print_lines([f"wrote {relative(file)}" for file in files])


def _text(number: float | None, form: str = ".4f") -> str:
    return "-" if number is None else f"{number:{form}}"


def _say(text: str) -> None:
    """A line of progress, which stands beside the one JSON document on stdout."""
    typer.echo(shown(text), err=True)
