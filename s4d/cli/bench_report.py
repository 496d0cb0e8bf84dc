"""`s4d bench gpu-report`: all benchmarks, step profiles, the GPU tests and the whole pipeline, into one JSON document.

Each part runs in a process of its own under a time limit; a part that fails or runs out of time is recorded with the
end of its output, keeps what it had measured, and the others go on. Calls for some of the parts add to the document
that is there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from s4d.cli.bench import Device, chosen_device, patterns
from s4d.cli.bounded_command import run_bounded, source_environment
from s4d.cli.output import print_lines, print_table, relative
from s4d.errors import DataError, UsageError
from s4d.shipped_configs import SHIPPED

ROOT = Path(__file__).resolve().parents[2]
_REHEARSAL = Path("runs") / "gpu-report"
_TAIL = 4000
# What a rehearsal makes of a configuration that is profiled, whatever its sources are called.
LITTLE = (
    "--steps=1",
    "--quick-ceiling",
    "model.depth=2",
    "model.embed_dim=32",
    "model.num_heads=2",
    "model.decoder_embed_dim=32",
    "model.decoder_depth=1",
    "model.decoder_num_heads=2",
    "model.moae.first_layer=1",
    "model.image_size=32",
    "model.num_frames=4",
    "data.mask_ratio={image: 0.5, video: 0.5}",
)
_ENTRY = "import sys; from s4d.cli import main; sys.exit(main())"
# Left to a part for ending by itself, and at the end for writing the document.
_RESERVE = 10.0
# Most seconds of the parts of a group, for hosts that allow a command ten minutes.
GROUP_SECONDS = 570.0
_TESTS = ROOT / "tests"
_PIPELINE_FOLDER = Path("runs") / "gpu-report" / "pipeline"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One process: a name, its group, its most seconds, the benchmark it runs and options of its own.

    `profile` names the configuration whose steps are profiled, on random pixels. The tests are neither.
    """

    name: str
    group: str
    limit: float
    bench: str | None = None
    options: tuple[str, ...] = ()
    profile: str | None = None


# What matters most stands first: a host that ends a command early has that. Benchmarks check before they time.
PARTS = (
    Part(name="attention", group="kernels", bench="attention", limit=190),
    Part(name="moae", group="kernels", bench="moae", limit=90),
    Part(name="reconstruction", group="kernels", bench="reconstruction", limit=60),
    Part(name="patch", group="kernels", bench="patch", limit=30),
    Part(name="tests", group="kernels", limit=200),
    Part(name="step", group="steps", bench="step", limit=100, options=("--peers", "engine,bare,release-eager")),
    Part(name="profile_pretrain", group="steps", limit=120, profile="pretrain/s4d_vit_base_vox2_affectnet.yaml"),
    Part(name="profile_finetune", group="steps", limit=120, profile="finetune/s4d_vit_base_dfew_affectnet7.yaml"),
    # Compiling takes longer than all else of a step; what is not compiled in time is missing alone.
    Part(
        name="step_compiled",
        group="steps",
        bench="step",
        limit=180,
        options=("--peers", "engine,compile-*", "--cases", "pretrain_192_192,finetune_64_clips"),
    ),
    Part(name="pipeline", group="pipeline", bench="pipeline", limit=560),
)
GROUPS = tuple(dict.fromkeys(part.group for part in PARTS))


def gpu_report(
    device: Device = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the document; below benchmarks/results, for chosen cases runs/gpu-report."),
    ] = None,
    limit: Annotated[
        float | None, typer.Option(min=0, help="Most seconds of all parts together; the sum of theirs if left out.")
    ] = None,
    cases: Annotated[str | None, typer.Option(help="Only these cases in every benchmark.", show_default=False)] = None,
    repeats: Annotated[
        int | None,
        typer.Option(min=1, help="Timed runs of a case; each benchmark's own number if left out.", show_default=False),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="Parts or groups of parts, separated by commas; all if left out.", show_default=False),
    ] = None,
    skip: Annotated[
        str | None, typer.Option(help="Parts or groups to leave out, separated by commas.", show_default=False)
    ] = None,
) -> None:
    """Run every benchmark, the step profiles, the GPU tests and the pipeline; exit 1 if a part fails.

    Groups of parts, each below ten minutes: kernels, steps, pipeline.
    """
    from s4d.cli.bench_files import results_folder, write_document

    target, chosen = chosen_device(device), chosen_parts(only, skip)
    if "tests" in [part.name for part in chosen] and not _TESTS.is_dir():
        raise UsageError(f"the tests are no part of an installed package ({ROOT} has none): add --skip tests")
    # A part of the cases must not replace the results of all of them.
    folder = (out or (results_folder(target) if cases is None else _REHEARSAL)).resolve()
    logs, path = folder / "gpu-report", folder / "gpu-report.json"
    logs.mkdir(parents=True, exist_ok=True)
    document = _document(target, _earlier(path, target))
    end = time.monotonic() + (limit or sum(part.limit + _RESERVE for part in chosen)) - _RESERVE
    for part in chosen:
        # A rehearsal on chosen cases states no shares of the machine's limits.
        extra = ["--cases", cases, "--quick-ceiling"] if cases else []
        extra += ["--repeats", str(repeats)] if repeats else []
        ran = _run(part, target.type, logs, min(part.limit, end - time.monotonic()), extra)
        document = _document(target, [each for each in document["parts"] if each["name"] != part.name] + [ran])
        write_document(path, document)
        print_lines([f"gpu-report: {part.name}: {ran['state']} after {ran['seconds']:.0f} s"])
        sys.stdout.flush()
    _show(document)
    print_lines([f"results: {relative(path)}"])
    states = {part["name"]: part["state"] for part in document["parts"]}
    if any(states[part.name] != "passed" for part in chosen):
        raise typer.Exit(1)


def chosen_parts(only: str | None, skip: str | None) -> list[Part]:
    """The parts of the names or groups in `only`, without those in `skip`; UsageError for a name that is none."""
    known = [name for part in PARTS for name in (part.name, part.group)]
    for option, text in (("--only", only), ("--skip", skip)):
        for name in patterns(text):
            if name not in known:
                raise UsageError(f"{option}: expected some of {', '.join(dict.fromkeys(known))}, got {name!r}")
    chosen = [part for part in PARTS if only is None or {part.name, part.group} & {*patterns(only)}]
    chosen = [part for part in chosen if not {part.name, part.group} & {*patterns(skip)}]
    if not chosen:
        raise UsageError("--only, --skip: no part is left")
    return chosen


def _earlier(path: Path, device: Any) -> list[dict[str, Any]]:
    """Parts of an earlier report of this machine."""
    from kernels.bench.machine import device_slug

    if not path.exists():
        return []
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document["parts"] if document["machine"]["slug"] == device_slug(device) else []
        return [part for part in found if part["name"] in {each.name for each in PARTS}]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no results of `s4d bench gpu-report`: {error}") from error


def _run(part: Part, device: str, logs: Path, seconds: float, extra: list[str]) -> dict[str, Any]:
    """Run one part; its state is passed, failed, out of time, or not started."""
    from kernels.bench.machine import source_commit

    facts = {"name": part.name, "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": source_commit()}
    if seconds <= 0:
        return {**facts, "state": "not started: no time left", "seconds": 0.0}
    log, result = logs / f"{part.name}.log", logs / f"{part.name}.json"
    result.unlink(missing_ok=True)
    environment = source_environment() | ({"S4D_REQUIRE_GPU": "1"} if device == "cuda" else {})
    command = part_command(part, device, result, extra, seconds)
    start = time.monotonic()
    outcome = run_bounded(command, log=log, environment=environment, cwd=ROOT, limit=seconds, new_session=True)
    document = json.loads(result.read_text(encoding="utf-8")) if result.exists() else None
    result.unlink(missing_ok=True)
    failed = f"failed with status {outcome}" if isinstance(outcome, int) else f"{outcome} after {seconds:.0f} s"
    return {
        **facts,
        "state": "passed" if outcome == 0 else failed,
        "seconds": time.monotonic() - start,
        "command": command[1:],
        "tail": log.read_text(encoding="utf-8", errors="replace")[-_TAIL:],
        "document": document,
    }


def part_command(part: Part, device: str, result: Path, extra: list[str], seconds: float) -> list[str]:
    """The process of a part; `extra` are options for every benchmark, in a rehearsal which cases."""
    s4d, rehearsal = [sys.executable, "-c", _ENTRY], "--cases" in extra
    wishes = ["--device", device, "--json", os.fspath(result), *part.options]
    if part.bench == "pipeline":
        size = ["--size", "tiny"] if rehearsal else []
        limits = ["--limit", f"{max(1.0, seconds - _RESERVE):.0f}", "--out", os.fspath(_PIPELINE_FOLDER.absolute())]
        return [*s4d, "bench", "pipeline", *wishes, *limits, *size]
    if part.bench is not None:
        plots = ["--plots", os.fspath(result.parent)] if part.bench != "step" else []
        return [*s4d, "bench", part.bench, *wishes, *extra, *plots]
    if part.profile is not None:
        config = os.fspath(SHIPPED / part.profile)
        return [*s4d, "profile", "step", "--config", config, "--synthetic", *wishes, *(LITTLE if rehearsal else ())]
    return [sys.executable, "-m", "pytest", *_TEST_OPTIONS, os.fspath(_TESTS)]


# The host may lack the plugins that the project's own settings name.
_TEST_OPTIONS = (
    "-c",
    os.devnull,
    f"--rootdir={ROOT}",
    "--import-mode=importlib",
    "-p",
    "no:cacheprovider",
    "-q",
    "-m",
    "gpu and not launch",
)


def _document(device: Any, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from kernels.bench.machine import machine_facts, source_commit

    places = {part.name: place for place, part in enumerate(PARTS)}
    parts = sorted(parts, key=lambda part: places[part["name"]])
    missing = [name for name in places if name not in {part["name"] for part in parts}]
    return {
        "schema": 2,
        "kind": "measurement",
        "what": "gpu-report",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "machine": machine_facts(device),
        "ok": not missing and all(part["state"] == "passed" for part in parts),
        "missing": missing,
        "goals": [goal for part in parts for goal in (part.get("document") or {}).get("goals", [])],
        "parts": parts,
    }


def _show(document: Mapping[str, Any]) -> None:
    from s4d.cli.bench_tables import show_goals

    print_table(
        ("part", "state", "seconds", "commit"),
        [
            (part["name"], part["state"], f"{part['seconds']:.0f}", (part["commit"] or "")[:12])
            for part in document["parts"]
        ],
    )
    if document["missing"]:
        print_lines([f"not run yet: {', '.join(document['missing'])}"])
    show_goals(document["goals"])
