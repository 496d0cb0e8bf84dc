"""`s4d science`: the arms of the experiment trained one after the other, and the table of what came out."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from s4d.cli.bench import Device, chosen_device
from s4d.cli.output import AsJson, print_json, print_lines, print_table, relative
from s4d.errors import UsageError

RESULTS = Path("benchmarks") / "results" / "science"
WORK = Path("runs") / "science"
BEGIN = "<!-- written by `s4d science table --docs`: begin -->"
END = "<!-- written by `s4d science table --docs`: end -->"


class SizeName(StrEnum):
    """Amounts of data, model and steps; tiny is for rehearsals."""

    cpu = "cpu"
    gpu = "gpu"
    tiny = "tiny"


class GroupName(StrEnum):
    """Arms that belong together."""

    claim = "claim"
    scaling = "scaling"
    variation = "variation"


SizeOption = Annotated[SizeName, typer.Option(help="Data, model and steps; tiny is for rehearsals.")]
ResultsOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the documents; left out: of the size, below benchmarks/results.", show_default=False),
]


def run(
    device: Device = None,
    *,
    size: SizeOption = SizeName.cpu,
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm; may be repeated.", show_default=False)] = None,
    group: Annotated[GroupName | None, typer.Option(help="Only these arms.", show_default=False)] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Seeds; 0, 1 and 2.", show_default=False)] = None,
    minutes: Annotated[float, typer.Option(min=0, help="Stop after this; call again for the rest.")] = 90,
    work: Annotated[Path, typer.Option(help="Where data and runs are kept; a folder per size.")] = WORK,
    results: ResultsOption = None,
    as_json: AsJson = False,
) -> None:
    """Train the arms that are missing, one seed of all of a group before the next; exit 1 while some are."""
    from s4d.science.run import Experiment, rows_of

    target = chosen_device(device)
    rows = rows_of(_arms(arm, group), seed or [0, 1, 2])
    experiment = Experiment(
        _size(size),
        work=work / size.value,
        results=_results(results, size),
        train=_Trainer(on_gpu=target.type == "cuda"),
        device=target,
        facts=lambda: _facts(target),
        say=lambda line: typer.echo(line, err=True),
    )
    missing = experiment.run(rows, time.monotonic() + 60 * minutes)
    if as_json:
        print_json({"rows": [row.name for row in rows], "missing": [row.name for row in missing]})
    else:
        rest = f"; call again for {', '.join(row.name for row in missing)}" if missing else ""
        print_lines([f"{len(rows) - len(missing)} of {len(rows)} rows are finished{rest}"])
    if missing:
        raise typer.Exit(1)


def table(
    *,
    size: SizeOption = SizeName.cpu,
    results: ResultsOption = None,
    docs: Annotated[
        bool, typer.Option("--docs", help="Bring docs/experiments.md up to date with the results of all sizes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show scores and gains of the finished rows."""
    from s4d.science.arms import GROUPS
    from s4d.science.page import TERMINAL_COLUMNS, TERMINAL_GAIN_COLUMNS, terminal_gain, terminal_rows
    from s4d.science.table import arms_in, gains, read_results, to_dict

    if docs:
        write_docs(Path.cwd())
        return
    folder = _results(results, size)
    found = read_results(folder)
    if not found:
        raise UsageError(f"{relative(folder)}: holds no result of `s4d science run`")
    if as_json:
        print_json(to_dict(found))
        return
    for group in GROUPS:
        if names := arms_in(found, group):
            print_table(TERMINAL_COLUMNS, terminal_rows(found, names))
    print_table(TERMINAL_GAIN_COLUMNS, [terminal_gain(gain) for gain in gains(found)])


def write_docs(root: Path) -> None:
    """Bring docs/experiments.md of a source tree and its pictures up to date with the results in it."""
    from s4d.atomic_files import write_atomically
    from s4d.cli.written_section import with_section
    from s4d.science.page import page_lines

    target = root / "docs" / "experiments.md"
    sizes = [size.value for size in SizeName if size is not SizeName.tiny]
    text = target.read_text(encoding="utf-8")
    # Asked first, so that a page without the markers is refused before pictures are written beside it.
    with_section(text, os.fspath(target), (BEGIN, END), [])
    lines = page_lines(root / RESULTS, sizes, target.parent)
    write_atomically(target, with_section(text, os.fspath(target), (BEGIN, END), lines))


class _Trainer:
    """Trains in processes of their own on one kind of device."""

    def __init__(self, *, on_gpu: bool) -> None:
        self._on_gpu = on_gpu

    def __call__(self, config: Path, overrides: Sequence[str], run_dir: Path, *, limit: float) -> None:
        from s4d.cli.training_process import train_run

        train_run(config, overrides, run_dir, on_gpu=self._on_gpu, limit=limit)


def _arms(names: Sequence[str] | None, group: GroupName | None) -> list[Any]:
    from s4d.science.arms import ARMS, arm_named

    if names and group:
        raise UsageError("--arm and --group: give one of them")
    if names:
        return [arm_named(name) for name in names]
    return [arm for arm in ARMS if group is None or arm.group == group.value]


def _size(name: SizeName) -> Any:
    from s4d.science.amounts import SIZES

    return SIZES[name.value]


def _results(folder: Path | None, size: SizeName) -> Path:
    if folder is not None:
        return folder
    # A rehearsal must not lie beside measurements.
    return WORK / size.value / "results" if size is SizeName.tiny else RESULTS / size.value


def _facts(device: Any) -> Mapping[str, Any]:
    from kernels.bench.machine import machine_facts, source_commit

    return {"commit": source_commit(), "machine": machine_facts(device)}
