"""`s4d profile scaling`: how a step's rate, messages and waits change with the number of ranks."""

from __future__ import annotations

import json as json_text
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4d.cli.bench import Device, chosen_device
from s4d.cli.completion import ConfigOption
from s4d.cli.output import print_json, print_lines, print_table, relative
from s4d.errors import UsageError

if TYPE_CHECKING:
    import torch

    from s4d.analysis.scaling.points import Point
    from s4d.config import Config

# For one start of the ranks, all its stages and modes included.
RANKS_SECONDS = 3600.0
MEBI = 1 << 20


class Mode(StrEnum):
    """Which batch stays: that of a step, that of a rank."""

    STRONG = "strong"
    WEAK = "weak"
    BOTH = "both"


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """What to run: a configuration, and the ranks, ZeRO stages and modes to run it in."""

    config: Path
    overrides: tuple[str, ...]
    ranks: tuple[int, ...]
    stages: tuple[int, ...]
    modes: tuple[str, ...]
    steps: int
    synthetic: bool
    device: torch.device


def scaling(
    *,
    config: ConfigOption,
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value ...", show_default=False)] = None,
    ranks: Annotated[str, typer.Option(help="Numbers of ranks, separated by commas.")] = "1,2,4",
    stages: Annotated[
        str | None, typer.Option(help="ZeRO stages, separated by commas; the configuration's own.", show_default=False)
    ] = None,
    mode: Annotated[
        Mode, typer.Option(help="strong: the batch of a step stays; weak: the batch of a rank stays.")
    ] = Mode.STRONG,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each run, after three that are not.")] = 10,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Random pixels of the right shapes in the place of files.")
    ] = False,
    device: Device = None,
    json: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE|-",
            help="Where to write the results, and a picture beside them (FILE with .png); - for stdout, no picture.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a few training steps on 1 to N ranks of this machine; exit 1 if messages are not what theory says."""
    from s4d.analysis.scaling.points import MODES
    from s4d.config import load

    own = load(config, overrides)
    study = Study(
        config=config,
        overrides=tuple(overrides or ()),
        ranks=_numbers("--ranks", ranks, least=1),
        stages=_numbers("--stages", stages, least=0) if stages is not None else (own.engine.zero_stage,),
        modes=MODES if mode is Mode.BOTH else (mode.value,),
        steps=steps,
        synthetic=synthetic,
        device=chosen_device(device),
    )
    document = measured(study)
    if json == "-":
        print_json(document)
    else:
        show(document)
        if json is not None:
            _write(document, Path(json))
    if not all(row["messages_agree"] for row in document["rows"]):
        raise typer.Exit(1)


def _write(document: dict[str, Any], path: Path) -> None:
    from s4d.analysis.scaling.plot import draw_scaling
    from s4d.cli.bench_files import write_document

    write_document(path, document)
    draw_scaling(document, path.with_suffix(".png"))
    print_lines([f"results: {relative(path)}, {relative(path.with_suffix('.png'))}"])


def _numbers(option: str, text: str, *, least: int) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < least:
        raise UsageError(f"{option}: expected whole numbers of {least} or more, separated by commas, got {text!r}")
    return found


def measured(study: Study) -> dict[str, Any]:
    """The results document: a row for each mode, stage and number of ranks."""
    from kernels.bench.machine import machine_facts, source_commit
    from s4d.analysis.scaling.points import notes_on, points_of, rows_of

    points = points_of(study.ranks, study.stages, study.modes)
    # All are checked before the first one runs.
    configs = {point: checked_config(study, point) for point in points}
    found: dict[Point, dict[str, Any]] = {}
    for ranks in study.ranks:
        chosen = [point for point in points if point.ranks == ranks]
        typer.echo(f"{ranks} ranks: {len(chosen)} runs", err=True)
        found |= run_points(study, {point: configs[point] for point in chosen})
    rows = rows_of(found, study.modes)
    return {
        "schema": 1,
        "kind": "measurement",
        "what": "scaling",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "machine": machine_facts(study.device),
        "config": str(study.config),
        "overrides": list(study.overrides),
        "options": {"steps": study.steps, "synthetic": study.synthetic},
        "notes": notes_on(rows),
        "rows": rows,
    }


def checked_config(study: Study, point: Point) -> Config:
    """The configuration of one point; UsageError if its ranks cannot run it, DataError from its manifests."""
    from s4d.analysis.scaling.points import WARM_UP
    from s4d.analysis.synthetic_batches import check_quotas
    from s4d.config import blamed_on, load
    from s4d.data.plan import build_plan

    given = list(study.overrides)
    quotas = load(study.config, given).batch.per_step
    # The length of the study; weights to start from change nothing about how long a step takes.
    given += [f"engine.steps={WARM_UP + study.steps}", "engine.epochs=null", "model.init_from=null"]
    given += ["engine.save_every=null", "engine.eval_every=null", "engine.keep_best=null"]
    given += [f"engine.zero_stage={point.stage}"]
    given += [f"batch.per_step.{name}={quota * point.batches}" for name, quota in quotas.items()]
    config = load(study.config, given)
    with blamed_on(study.config, list(study.overrides)):
        if study.synthetic:
            check_quotas(config, point.ranks)
        else:
            build_plan(config, world_size=point.ranks)
    if study.device.type == "cuda":
        import torch

        if point.ranks > torch.cuda.device_count():
            raise UsageError(f"--ranks: {point.ranks} ranks need as many GPUs, found {torch.cuda.device_count()}")
    return config


def run_points(study: Study, configs: dict[Point, Config]) -> dict[Point, dict[str, Any]]:
    """Measure points of one number of ranks in one start of them."""
    from s4d.cli.local_ranks import available_cores, run_ranks, share_cores

    ranks = next(iter(configs)).ranks
    on_gpu = study.device.type == "cuda"
    cores = available_cores()
    # The same at every point, so that a rank of many has what a rank alone had.
    each = max(1, len(cores) // max(study.ranks))
    with tempfile.TemporaryDirectory(prefix="s4d-scaling-") as folder:
        target, job = Path(folder) / "found.json", Path(folder) / "job.json"
        texts = [config.model_dump_json() for config in configs.values()]
        values = {
            "device": study.device.type,
            "synthetic": study.synthetic,
            "configs": texts,
            "target": str(target),
        }
        job.write_text(json_text.dumps(values), encoding="utf-8")
        run_ranks(
            [sys.executable, "-m", "s4d.cli.profile_scaling_rank", str(job)],
            ranks,
            limit=RANKS_SECONDS,
            threads=each,
            cores=None if on_gpu else share_cores(ranks, each, cores),
            on_gpu=on_gpu,
        )
        found = json_text.loads(target.read_text(encoding="utf-8"))
    place = {
        "device": study.device.type,
        "cores_per_rank": None if on_gpu else each,
        "shares_cores": not on_gpu and ranks * each > len(cores),
    }
    return {
        point: {**_row(point, config, values), **place}
        for (point, config), values in zip(configs.items(), found, strict=True)
    }


def _row(point: Point, config: Config, found: dict[str, Any]) -> dict[str, Any]:
    """Measured and expected figures of one step."""
    from engine.footprint import Case, traffic
    from s4d.cli.collectives import bytes_sent, message_bytes, messages_agree

    case = Case(
        stage=point.stage,
        world_size=point.ranks,
        precision=config.engine.precision,
        offload=config.engine.offload,
        accumulation=config.batch.accumulation,
        has_average=config.optim.ema is not None,
    )
    seconds: Sequence[float] = found["step_seconds"]
    steps = len(seconds)
    messages = {
        name: {"calls": entry["calls"] / steps, "bytes": entry["bytes"] / steps}
        for name, entry in found["traffic"].items()
    }
    seen, expected = message_bytes(messages), traffic(case, found["sizes"])
    step = median(seconds)
    return {
        "samples": found["samples"],
        "step_ms": 1e3 * step,
        "fastest_ms": 1e3 * min(seconds),
        "slowest_ms": 1e3 * max(seconds),
        "samples_per_second": found["samples"] / step,
        "data_wait_ms": 1e3 * found["data_seconds"],
        "collective_ms": 1e3 * found["collective_seconds"],
        "messages": messages,
        "expected_messages": expected,
        "sent": bytes_sent(seen, point.ranks),
        "expected_sent": bytes_sent(expected, point.ranks),
        "messages_agree": messages_agree(seen, expected),
        "threads_per_rank": found["threads"],
    }


COLUMNS = (
    *("mode", "ZeRO", "ranks", "samples", "step ms", "samples/s", "efficiency"),
    *("collectives ms", "data ms", "sent MiB", "expected", "messages"),
)


MESSAGE_COLUMNS = ("mode", "ZeRO", "ranks", "messages of a step", "calls", "MiB", "expected MiB")


def show(document: dict[str, Any]) -> None:
    """Print the table and what one must know to read it."""
    print_table(COLUMNS, [_cells(row) for row in document["rows"]], keys=3)
    print_table(MESSAGE_COLUMNS, [cells for row in document["rows"] for cells in _message_cells(row)], keys=3)
    print_lines(document["notes"])
    print_lines(
        [
            "efficiency: samples a second of a rank, over those with the fewest ranks; collectives: the time a step "
            "waits in them, for slower ranks too; sent: by each rank of a ring, a step"
        ]
    )


def _message_cells(row: dict[str, Any]) -> list[list[object]]:
    """A line for each collective that carries more than norms and counts, or should."""
    from s4d.cli.collectives import message_bytes

    seen, expected = message_bytes(row["messages"]), row["expected_messages"]
    return [
        [
            row["mode"],
            row["stage"],
            row["ranks"],
            name,
            f"{row['messages'].get(name, {'calls': 0.0})['calls']:g}",
            f"{seen.get(name, 0.0) / MEBI:.3f}",
            f"{expected.get(name, 0.0) / MEBI:.3f}",
        ]
        for name in dict.fromkeys([*expected, *seen])
    ]


def _cells(row: dict[str, Any]) -> list[object]:
    shared = "*" if row["shares_cores"] else ""
    return [
        row["mode"],
        row["stage"],
        f"{row['ranks']}{shared}",
        row["samples"],
        f"{row['step_ms']:.1f}",
        f"{row['samples_per_second']:.2f}",
        f"{row['efficiency']:.0%}",
        f"{row['collective_ms']:.1f}",
        f"{row['data_wait_ms']:.1f}",
        f"{row['sent'] / MEBI:.2f}",
        f"{row['expected_sent'] / MEBI:.2f}",
        "ok" if row["messages_agree"] else "differ",
    ]
