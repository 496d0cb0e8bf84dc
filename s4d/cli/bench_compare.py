"""`s4d bench compare`: fail where the working tree is slower than another revision of itself."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4d.cli.bench import Cases, Device, chosen_device
from s4d.cli.output import print_json, print_lines, print_table, relative
from s4d.errors import UsageError

if TYPE_CHECKING:
    import torch

    from s4d.analysis.compare.process import ProcessSide

ROOT = Path(__file__).resolve().parents[2]
# Cases of a second or less, one for each op and length that a step has, and a small whole step of each task.
SUITE = {
    "cpu": (
        *("attention/mix10_40", "attention/mix100_800_small", "moae/t1600", "moae_plan/t1600"),
        *("patch/clips95_small", "patch/stills90_small"),
        *("reconstruction/clips_small", "reconstruction/stills_small"),
        *("step/pretrain", "step/finetune"),
    ),
    "cuda": (
        *("attention/mix10_40", "attention/mix100_800", "moae/t1600", "moae/t12800", "moae_plan/t12800"),
        *("tile_map/new_lengths", "patch/clips95", "patch/stills90", "reconstruction/clips", "reconstruction/stills"),
        *("step/pretrain", "step/finetune"),
    ),
}


def compare(
    *,
    base: Annotated[str, typer.Option(help="Revision to compare the working tree with.", show_default=False)],
    device: Device = None,
    cases: Cases = None,
    rounds: Annotated[int, typer.Option(min=5, help="Turns of each side in each case.")] = 15,
    json: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE|-", help="Where to write the results, - for stdout.", show_default=False),
    ] = None,
) -> None:
    """Time a short suite on a revision and on the working tree in turn; exit 1 if a case is over 5 % slower."""
    target = chosen_device(device)
    document = compared(base, _chosen(cases, target.type), rounds, target)
    if json == "-":
        print_json(document)
    else:
        show(document)
    if json is not None and json != "-":
        from s4d.cli.bench_files import write_document

        write_document(Path(json), document)
        print_lines([f"results: {relative(json)}"])
    if any(row["verdict"] == "slower" for row in document["rows"]):
        raise typer.Exit(1)


def _chosen(patterns: str | None, kind: str) -> tuple[str, ...]:
    suite = SUITE[kind]
    wanted = [pattern.strip() for pattern in patterns.split(",")] if patterns else ["*"]
    found = tuple(case for case in suite if any(fnmatchcase(case, pattern) for pattern in wanted))
    if not found:
        raise UsageError(f"--cases: none fits {patterns}; cases are {', '.join(suite)}")
    return found


def compared(base: str, cases: tuple[str, ...], rounds: int, device: torch.device) -> dict[str, Any]:
    """The results document."""
    from kernels.bench.machine import machine_facts, source_commit
    from s4d.analysis.compare.process import both_sides
    from s4d.analysis.compare.rounds import compare as compare_sides
    from s4d.analysis.compare.worktree import build_native, commit_of, has_compiler, work_tree

    commit = commit_of(ROOT, base)
    with work_tree(ROOT, commit) as tree, tempfile.TemporaryDirectory(prefix="s4d-native-") as folder:
        natives: tuple[Path | None, Path | None] = (None, None)
        if has_compiler():
            # Both by the same commands, so that they differ in their sources alone.
            _tell("building the native library of both sides")
            natives = build_native(tree, Path(folder) / "base"), build_native(ROOT, Path(folder) / "head")
        else:
            _tell("no C++ compiler: both sides run without the native library")

        def sides() -> AbstractContextManager[tuple[ProcessSide, ProcessSide]]:
            return both_sides(tree, ROOT, device.type, natives)

        found = compare_sides(sides, cases, rounds, _tell)
    return {
        "schema": 1,
        "kind": "comparison",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "base": commit,
        "commit": source_commit(),
        "machine": machine_facts(device),
        "native": natives[0] is not None,
        "rows": found.rows,
        "one_sided": found.one_sided,
    }


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def show(document: dict[str, Any]) -> None:
    """Print a line for each case."""
    print_table(("case", "base ms", "change", "95 % interval", "verdict"), [_cells(row) for row in document["rows"]])
    for item in document["one_sided"]:
        print_lines([f"not compared: {item['case']}: {item['missing']} has it not: {item['reason']}"])
    for row in document["rows"]:
        if row["verdict"].startswith("slower"):
            again = row["again"]["change"]["median"]
            times = f"{row['change']['median']:+.1%}, in fresh processes {again:+.1%}"
            print_lines([f"{'SLOWER' if row['verdict'] == 'slower' else 'slower once'}: {row['case']}: {times}"])


def _cells(row: dict[str, Any]) -> list[str]:
    from statistics import median

    change = row["change"]
    interval = f"{change['low']:+.1%} to {change['high']:+.1%}"
    return [row["case"], f"{1e3 * median(row['base']):.2f}", f"{change['median']:+.1%}", interval, row["verdict"]]
