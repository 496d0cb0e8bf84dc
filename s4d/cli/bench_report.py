"""`s4d bench gpu-report`: all benchmarks, a step profile and the GPU tests in one go, into one JSON document.

Each part runs in a process of its own under a time limit; a part that fails or runs out of time is recorded with the
end of its output, keeps what it had measured, and the others go on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from s4d.cli.bench import Device, chosen_device
from s4d.cli.output import print_lines, print_table, relative

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
# Left for writing the document when the last part uses up its time.
_RESERVE = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One process: a name, the benchmark it runs (None for other commands), its most seconds, and options of its own.

    `profile` names the configuration whose steps are profiled, on random pixels. The tests are neither.
    """

    name: str
    bench: str | None
    limit: float
    options: tuple[str, ...] = ()
    profile: str | None = None


# Benchmarks first: each checks its results before it times them. The tests get what is left of the whole.
PARTS = (
    Part(name="attention", bench="attention", limit=190),
    Part(name="moae", bench="moae", limit=90),
    Part(name="reconstruction", bench="reconstruction", limit=60),
    Part(name="patch", bench="patch", limit=30),
    Part(name="step", bench="step", limit=70, options=("--peers", "engine,bare,release-eager")),
    # Compiling takes longer than all else of a step; what is not compiled in time is missing alone.
    Part(
        name="step_compiled",
        bench="step",
        limit=120,
        options=("--peers", "engine,compile-*", "--cases", "pretrain_192_192,finetune_64_clips"),
    ),
    Part(name="profile_pretrain", bench=None, limit=90, profile="configs/pretrain/s4d_vit_base_vox2_affectnet.yaml"),
    Part(name="profile_finetune", bench=None, limit=90, profile="configs/finetune/s4d_vit_base_dfew_affectnet7.yaml"),
    Part(name="tests", bench=None, limit=300),
)


def gpu_report(
    device: Device = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the document; benchmarks/results/<device>, for chosen cases runs/gpu-report."),
    ] = None,
    limit: Annotated[float, typer.Option(help="Most seconds of all parts together.")] = 580.0,
    cases: Annotated[str | None, typer.Option(help="Only these cases in every benchmark.", show_default=False)] = None,
    repeats: Annotated[int | None, typer.Option(min=1, show_default=False)] = None,
    skip: Annotated[str, typer.Option(help="Parts to leave out, separated by commas.")] = "",
) -> None:
    """Run every benchmark, the step profile and the GPU tests; exit 1 if a part fails."""
    from s4d.cli.bench_files import results_folder, write_document

    target = chosen_device(device)
    # A part of the cases must not replace the results of all of them.
    folder = (out or (results_folder(target) if cases is None else _REHEARSAL)).resolve()
    logs = folder / "gpu-report"
    logs.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + limit - _RESERVE
    parts: list[dict[str, Any]] = []
    for part in PARTS:
        if part.name in skip.split(","):
            parts.append({"name": part.name, "state": "skipped"})
            continue
        seconds = min(part.limit, end - time.monotonic())
        # A rehearsal on chosen cases states no shares of the machine's limits.
        extra = ["--cases", cases, "--quick-ceiling"] if cases else []
        extra += ["--repeats", str(repeats)] if repeats else []
        parts.append(_run(part, target.type, logs, seconds, extra))
        write_document(folder / "gpu-report.json", _document(target, parts))
        print_lines([f"gpu-report: {part.name}: {parts[-1]['state']} after {parts[-1]['seconds']:.0f} s"])
        sys.stdout.flush()
    document = _document(target, parts)
    write_document(folder / "gpu-report.json", document)
    _show(document)
    print_lines([f"results: {relative(folder / 'gpu-report.json')}"])
    if not document["ok"]:
        raise typer.Exit(1)


def _run(part: Part, device: str, logs: Path, seconds: float, extra: list[str]) -> dict[str, Any]:
    """Run one part; its state is passed, failed, out of time, or not started."""
    if seconds <= 0:
        return {"name": part.name, "state": "not started: no time left", "seconds": 0.0}
    log, result = logs / f"{part.name}.log", logs / f"{part.name}.json"
    result.unlink(missing_ok=True)
    path = [os.fspath(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    if device == "cuda":
        environment["S4D_REQUIRE_GPU"] = "1"
    command = part_command(part, device, result, extra)
    start = time.monotonic()
    state = _wait(command, environment, log, seconds)
    document = json.loads(result.read_text(encoding="utf-8")) if result.exists() else None
    result.unlink(missing_ok=True)
    return {
        "name": part.name,
        "state": state,
        "seconds": time.monotonic() - start,
        "command": command[1:],
        "tail": log.read_text(encoding="utf-8", errors="replace")[-_TAIL:],
        "document": document,
    }


def part_command(part: Part, device: str, result: Path, extra: list[str]) -> list[str]:
    """The process of a part; `extra` are options for every benchmark, in a rehearsal which cases."""
    s4d = [sys.executable, "-c", _ENTRY]
    wishes = ["--device", device, "--json", os.fspath(result), *part.options]
    if part.bench is not None:
        plots = ["--plots", os.fspath(result.parent)] if part.bench != "step" else []
        return [*s4d, "bench", part.bench, *wishes, *extra, *plots]
    if part.profile is not None:
        config = os.fspath(ROOT / part.profile)
        little = LITTLE if "--cases" in extra else ()
        return [*s4d, "profile", "step", "--config", config, "--synthetic", *wishes, *little]
    return [sys.executable, "-m", "pytest", *_TEST_OPTIONS, os.fspath(ROOT / "tests")]


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


def _wait(command: list[str], environment: Mapping[str, str], log: Path, seconds: float) -> str:
    with log.open("wb") as stream:
        # A session of its own, so that what the part has started ends with it.
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True
        )
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"out of time after {seconds:.0f} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return "passed" if status == 0 else f"failed with status {status}"


def _document(device: Any, parts: list[dict[str, Any]]) -> dict[str, Any]:
    from kernels.bench.machine import machine_facts, source_commit

    goals = [goal for part in parts for goal in (part.get("document") or {}).get("goals", [])]
    return {
        "schema": 1,
        "kind": "measurement",
        "what": "gpu-report",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "machine": machine_facts(device),
        "ok": all(part["state"] in ("passed", "skipped") for part in parts),
        "goals": goals,
        "parts": parts,
    }


def _show(document: Mapping[str, Any]) -> None:
    from s4d.cli.bench_tables import show_goals

    print_table(
        ("part", "state", "seconds"),
        [(part["name"], part["state"], f"{part.get('seconds', 0):.0f}") for part in document["parts"]],
    )
    show_goals(document["goals"])
