"""`s4d evaluate`: score a finished run again, in this process."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4d.cli.out_folder import refuse_unwritable
from s4d.cli.output import AsJson, print_json, print_lines, print_table, relative

if TYPE_CHECKING:
    from s4d.statistics import Interval
    from s4d.tasks.evaluate_run import RunScores


class Split(StrEnum):
    """Splits that can be scored."""

    test = "test"
    val = "val"


class Weights(StrEnum):
    """Weights of a checkpoint."""

    last = "last"
    ema = "ema"


class Pointer(StrEnum):
    """Checkpoints of a run that have a name."""

    latest = "latest"
    best = "best"


class Protocol(StrEnum):
    """How tests are run."""

    held_out = "held-out"
    release = "release"


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a fine-tuning run.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="section.key=value ... of the run's configuration, such as views.", show_default=False),
    ] = None,
    *,
    split: Annotated[Split, typer.Option(help="Which held-out data.")] = Split.test,
    weights: Annotated[Weights, typer.Option(help="The trained weights, or their running average.")] = Weights.last,
    pointer: Annotated[
        Pointer | None, typer.Option(help="Which checkpoint; left to the protocol if not given.", show_default=False)
    ] = None,
    protocol: Annotated[
        Protocol,
        typer.Option(
            help="held-out: the run's own test views and its newest checkpoint. release: the views of the released "
            "code (2 windows x 2 equal crops) and the best checkpoint, which it selects on the test split."
        ),
    ] = Protocol.held_out,
    dynamics: Annotated[
        bool, typer.Option("--dynamics", help="Also show clips shuffled, reversed and frozen: what is lost then?")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also keep scores, predictions and logits in this folder.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a run with 95 % intervals, calibration error and recalls; nothing in the run folder changes."""
    from s4d.errors import UsageError
    from s4d.tasks.evaluate_run import Request, evaluate_run

    if out is not None and out.resolve() == run.resolve():
        raise UsageError(f"--out {out}: is the run itself, whose own evaluation stays as it is")
    if out is not None:
        refuse_unwritable(out)
    request = Request(
        split=split.value,
        weights=weights.value,
        pointer=None if pointer is None else pointer.value,
        protocol=protocol.value,
        overrides=tuple(overrides or ()),
        dynamics=dynamics,
    )
    found = evaluate_run(run, request)
    if out is not None:
        found.write(out)
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)
        print_lines([f"wrote {relative(out)}"] if out is not None else [])


def _print(found: RunScores) -> None:
    from s4d.statistics import brier_score, expected_calibration_error
    from s4d.tasks.evaluation_files import intervals

    asked = found.request
    print_lines(
        [
            f"{found.checkpoint.name} ({found.chosen}; {asked.weights} weights), "
            f"{asked.split} split, protocol {asked.protocol}"
        ]
    )
    rows, recalls = [], []
    for name, result in found.results.items():
        scores, ranges = result.scores, intervals(result)
        error, brier = (
            measure(result.probabilities, result.labels) for measure in (expected_calibration_error, brier_score)
        )
        samples = f"{len(result.labels)}" + (f" ({result.unreadable} unreadable)" if result.unreadable else "")
        classes = f"{len(scores.classes) - len(scores.absent)} of {len(scores.classes)}"
        rows.append((name, samples, classes, _range(ranges.uar), _range(ranges.war), f"{error:.4f}", f"{brier:.4f}"))
        support = scores.confusion.sum(1).tolist()
        for label, count, recall in zip(scores.classes, support, ranges.recall, strict=True):
            recalls.append((name, label, count, "no samples" if recall is None else _range(recall)))
    columns = ("source", "samples", "classes with samples", "UAR", "WAR", "calibration error", "Brier score")
    print_table(columns, rows)
    print_table(("source", "class", "samples", "recall"), recalls)
    frames = [(name, f"{item.frames.best:.4f}") for name, item in found.results.items() if item.frames is not None]
    if frames:
        print_table(("source", "UAR of the best single frame"), frames)
    effects = [
        (name, effect.frame_order, f"{effect.scores.uar:.4f}", _range(effect.drop.uar))
        for name, group in found.dynamics.items()
        for effect in group
    ]
    if effects:
        print_table(("source", "frames", "UAR", "UAR lost"), effects)


def _range(interval: Interval) -> str:
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
