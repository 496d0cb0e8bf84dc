"""`s4d bench zero`: what each rank holds and sends at every ZeRO stage, beside what `engine.footprint` says."""

from __future__ import annotations

import json as json_text
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4d.cli import local_ranks
from s4d.cli.output import print_document, print_json, print_lines, print_table, relative
from s4d.errors import DataError, UsageError

if TYPE_CHECKING:
    from engine.footprint import Case

RESULTS = Path("benchmarks") / "results" / "cpu" / "zero.json"
# (stage, offload, accumulation)
KINDS = (
    (0, "none", 1),
    (1, "none", 1),
    (2, "none", 1),
    (3, "none", 1),
    (1, "optimizer", 1),
    (2, "optimizer", 1),
    (3, "optimizer", 1),
    (3, "parameters", 1),
    (2, "none", 2),
    (3, "none", 2),
)
PRECISIONS = ("fp32", "bf16")
SHAPES = {
    "small": {"task": "pretrain", "size": "small", "images": 1, "clips": 1, "side": 64, "frames": 4},
    "tiny": {"task": "pretrain", "size": "tiny", "images": 1, "clips": 1, "side": 32, "frames": 2},
}
PURPOSES = ("weights", "gathered", "masters", "moments", "ema", "gradients", "buffers")
# Deviation over the model that is explained by padding, and by parameters that lie in two ranks' parts.
SHARE = 0.01
RANKS_SECONDS = 900.0
MEBI = 1 << 20


def zero(
    *,
    worlds: Annotated[str, typer.Option(help="Numbers of ranks, separated by commas.")] = "1,2,4",
    model: Annotated[str, typer.Option(help="small or tiny.")] = "small",
    json: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE|-",
            help="Where to write the results, - for stdout instead of a table; "
            "a complete run writes benchmarks/results/cpu/zero.json by default.",
            show_default=False,
        ),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Only write the table of a results file as Markdown to stdout.")
    ] = None,
) -> None:
    """Measure memory and messages of each rank at every ZeRO stage; exit 1 where they are not what theory says."""
    if markdown is not None:
        print_document(markdown_table(_read(markdown)))
        return
    if model not in SHAPES:
        raise UsageError(f"--model: expected one of {', '.join(SHAPES)}, got {model!r}")
    chosen = _numbers(worlds)
    document = measured(chosen, model)
    if json == "-":
        print_json(document)
    else:
        print_table(COLUMNS, [cells(row) for row in document["rows"]], keys=5)
        path = Path(json) if json else RESULTS if (worlds, model) == ("1,2,4", "small") else None
        if path is not None:
            from s4d.cli.bench_files import write_document

            write_document(path, document)
            print_lines([f"results: {relative(path)}"])
    if not all(row["ok"] for row in document["rows"]):
        raise typer.Exit(1)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise UsageError(f"--worlds: expected whole numbers of 1 or more, separated by commas, got {text!r}")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json_text.loads(path.read_text(encoding="utf-8"))
        document["rows"][0]["case"]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path}: no results of `s4d bench zero`: {error}") from error
    return document


def measured(worlds: tuple[int, ...], model: str) -> dict[str, Any]:
    """The results file: a row for each case with measured and expected bytes."""
    import torch

    from engine.footprint import Case
    from kernels.bench.machine import machine_facts, source_commit

    rows: list[dict[str, Any]] = []
    for world_size in worlds:
        cases = [
            Case(
                stage=stage,
                world_size=world_size,
                precision=precision,
                offload=offload,
                accumulation=accumulation,
                on_cpu=True,
            )
            for precision in PRECISIONS
            for stage, offload, accumulation in KINDS
        ]
        rows += [compared(case, found) for case, found in zip(cases, run_ranks(cases, model), strict=True)]
    return {
        "schema": 1,
        "kind": "zero",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "machine": machine_facts(torch.device("cpu")),
        "model": SHAPES[model],
        "tolerance": {"share": SHARE, "of_gradients": "two of the largest parameter in fp32"},
        "rows": rows,
    }


def run_ranks(cases: list[Case], model: str) -> list[dict[str, Any]]:
    """Measure cases of one world size in as many processes; DataError if one fails."""
    with tempfile.TemporaryDirectory(prefix="s4d-zero-") as folder:
        target = Path(folder) / "found.json"
        command = [sys.executable, "-m", "s4d.cli.bench_zero_rank"]
        command += [json_text.dumps([case.as_dict() for case in cases]), json_text.dumps(SHAPES[model]), str(target)]
        local_ranks.run_ranks(command, cases[0].world_size, limit=RANKS_SECONDS)
        found: list[dict[str, Any]] = json_text.loads(target.read_text(encoding="utf-8"))
    return found


def compared(case: Case, found: dict[str, Any]) -> dict[str, Any]:
    """One row: measured and expected bytes of rank 0, and whether they agree."""
    from engine import footprint
    from s4d.cli.collectives import bytes_sent, message_bytes, messages_agree

    sizes = found["sizes"]
    expected = footprint.memory(case, sizes).as_dict()
    messages = footprint.traffic(case, sizes)
    seen = message_bytes(found["traffic"])
    slack = {purpose: SHARE * sum(sizes) for purpose in PURPOSES}
    slack["gradients"] += 2 * footprint.FP32 * max(sizes)
    ok = all(abs(found["memory"][name] - expected[name]) <= slack[name] for name in PURPOSES)
    ok &= messages_agree(seen, messages)
    return {
        "case": case.as_dict(),
        "parameters": sum(sizes),
        "memory": {name: found["memory"][name] for name in PURPOSES},
        "expected_memory": expected,
        "messages": found["traffic"],
        "expected_messages": messages,
        "sent": bytes_sent(seen, case.world_size),
        "expected_sent": bytes_sent(messages, case.world_size),
        "ok": bool(ok),
    }


COLUMNS = ("ranks", "ZeRO", "offload", "precision", "acc", *PURPOSES, "sent", "state")


def cells(row: dict[str, Any]) -> list[str]:
    """One row of the table: measured MiB, with what theory says where it differs in the last digit shown."""
    case = row["case"]
    memory = [_pair(row["memory"][name], row["expected_memory"][name]) for name in PURPOSES]
    sent = _pair(row["sent"], row["expected_sent"])
    state = "ok" if row["ok"] else "differs"
    names = [case["world_size"], case["stage"], case["offload"], case["precision"], case["accumulation"]]
    return [*map(str, names), *memory, sent, state]


def _pair(measured: float, expected: float) -> str:
    ours, theirs = f"{measured / MEBI:.1f}", f"{expected / MEBI:.1f}"
    return ours if ours == theirs else f"{ours} ({theirs})"


def markdown_table(document: dict[str, Any]) -> list[str]:
    """The same table for a page."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    return lines + [f"| {' | '.join(cells(row))} |" for row in document["rows"]]
