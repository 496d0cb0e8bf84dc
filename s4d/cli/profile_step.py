"""`s4d profile step`: where the time of a training step goes, on the engine that trains.

Schema 1 of the document (`what`: "step"), times in seconds of one step: `run` (what was profiled), `ceiling` (limits of
the same run), `limits` (those that floors are made of), `rates`, `profiler` (its slow-down), `split` (all of a step by
part, the backward as one), `parts` (by part and phase: seconds, flops, bytes, flops_per_second, bytes_per_second,
floor_seconds, gap_seconds, bound), `backward_outside_seconds`, `optimizer`, `python_seconds` (on a CPU: of the parts,
but of no op), `utilisation`, `launches` and `triton_launches`, `host_syncs`, `memory`, `gaps`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4d.cli.bench import Device, Quick, chosen_device
from s4d.cli.completion import ConfigOption
from s4d.cli.output import print_json, print_lines, print_table, relative
from s4d.errors import UsageError

if TYPE_CHECKING:
    import torch

    from s4d.cli.profile_step_run import Found
    from s4d.config import Config


def step(
    *,
    config: ConfigOption,
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value ...", show_default=False)] = None,
    device: Device = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE=N", help="Views of a source in a step, in place of the file's.", show_default=False
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps that the rates are measured over.")] = 10,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Random pixels in place of the run's data.")] = False,
    json: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE|-",
            help="Where to write the results; - for stdout instead of a table.",
            show_default=False,
        ),
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Write the trace, for Perfetto.", show_default=False)] = None,
    memory: Annotated[
        Path | None, typer.Option(help="Write a snapshot of a GPU's memory, for pytorch.org/memory_viz.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with figures.", show_default=False)] = None,
    quick_ceiling: Quick = False,
) -> None:
    """Profile training steps of a configuration: time by part, against what the machine could do."""
    from engine.failure import leave
    from s4d.atomic_files import write_atomically
    from s4d.config import blamed_on

    target = chosen_device(device)
    if memory is not None and target.type != "cuda":
        raise UsageError("--memory: a snapshot is of a GPU's memory, this profile runs on a CPU")
    wishes = [*(overrides or []), *_quotas(config, overrides or [], batch or [])]
    chosen = _config(config, wishes, steps)
    with blamed_on(config, wishes):
        document, files = _measured(chosen, target, steps, synthetic, [trace, memory], quick_ceiling)
    document["run"]["config"] = os.fspath(config)
    for path, content in zip((trace, memory), files, strict=True):
        if path is not None and content is not None:
            write_atomically(path, content)
    _hand_over(document, json, html)
    if json != "-":
        print_lines([f"{name}: {relative(path)}" for name, path in (("trace", trace), ("memory", memory)) if path])
    # DeepSpeed keeps process groups into the interpreter's teardown, which now and then aborts.
    leave(0)


def _hand_over(document: dict[str, Any], json: str | None, html: Path | None) -> None:
    """Write and print what is asked for."""
    from s4d.cli.bench_files import write_document

    if html is not None:
        from s4d.analysis.step_profile.page import profile_page
        from s4d.atomic_files import write_atomically

        write_atomically(html, profile_page(document))
    if json == "-":
        print_json(document)
        return
    _show(document)
    if json is not None:
        write_document(Path(json), document)
        print_lines([f"results: {relative(json)}"])
    if html is not None:
        print_lines([f"page: {relative(html)}"])


def _quotas(path: Path, overrides: list[str], wishes: list[str]) -> list[str]:
    """The overrides behind `--batch`."""
    from s4d.config import load

    known = load(path, overrides).batch.per_step if wishes else {}
    found = []
    for wish in wishes:
        name, _, count = wish.partition("=")
        if name not in known:
            raise UsageError(f"--batch: expected one of {', '.join(known)} before the =, got {wish!r}")
        if not count.isascii() or not count.isdigit() or int(count) < 1:
            raise UsageError(f"--batch: expected {name}=N with a whole N of 1 or more, got {wish!r}")
        found.append(f"batch.per_step.{name}={count}")
    return found


def _config(path: Path, overrides: list[str], steps: int) -> Config:
    """The run without what lies beside its steps: evaluation, checkpoints, its length."""
    from s4d.cli.profile_step_run import steps_in_all
    from s4d.config import load

    wanted = load(path, overrides)
    beside = ["engine.keep_best=null", "engine.eval_every=null", "engine.save_every=null", "engine.epochs=null"]
    return load(path, [*overrides, *beside, f"engine.steps={steps_in_all(wanted, steps)}"])


def _measured(
    config: Config,
    device: torch.device,
    steps: int,
    synthetic: bool,
    keep: list[Path | None],
    quick: bool,
) -> tuple[dict[str, Any], list[bytes | None]]:
    """The document of a whole profile, and the contents of the files that are wanted beside it."""
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("a profile is of one rank: start it without a launcher")
    os.environ["DS_ACCELERATOR"] = device.type
    from engine.runtime import start_runtime
    from kernels import backends
    from kernels.bench.ceiling import measure_ceiling
    from s4d.cli.profile_step_run import profile_steps

    dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
    _check_manifests(config, synthetic)
    runtime = start_runtime()
    try:
        ceiling = measure_ceiling(runtime.device, tuple(dict.fromkeys((dtype, torch.float32))), quick=quick)
        if runtime.device.type == "cuda":
            torch.cuda.empty_cache()  # else the step's peaks would hold what the limits were measured with
        task, batches = _built(config, steps, runtime.device, synthetic)
        try:
            found, files = profile_steps(config, task, batches, runtime, steps=steps, keep=keep)
        finally:
            batches.close()
    finally:
        runtime.close()
    limits = {"flops": ceiling[f"matmul_{str(dtype).removeprefix('torch.')}"], "bytes": ceiling["copy"]}
    document = _document(found, config, runtime.device, limits, {**ceiling})
    document["run"] |= {"synthetic": synthetic, "backends": backends.chosen(), "undisturbed_steps": steps}
    document["run"] |= {"step": found.live, "replayed_steps": found.replayed_steps}
    return document, files


def _check_manifests(config: Config, synthetic: bool) -> None:
    absent = [source.manifest for source in config.data.sources if not Path(source.manifest).is_file()]
    if absent and not synthetic:
        raise UsageError(f"{absent[0]}: no such manifest; --synthetic profiles with random pixels in its place")


def _built(config: Config, steps: int, device: torch.device, synthetic: bool) -> tuple[Any, Any]:
    """Task and batches as a run has them, or on random pixels with random weights."""
    if not synthetic:
        from s4d.data.loader import build_batches
        from s4d.tasks import build_task

        task = build_task(config, rank=0, world_size=1, device=device)
        return task, build_batches(config, 0, 1, device)
    from s4d.analysis.synthetic_batches import SyntheticBatches, description
    from s4d.cli.profile_step_run import steps_in_all
    from s4d.models.backends import check_backends
    from s4d.tasks import restore_task

    check_backends(config.engine.backends)
    plain = config.model_copy(update={"model": config.model.model_copy(update={"init_from": None})})
    return restore_task(plain, description(plain), device=device), SyntheticBatches(plain, steps_in_all(plain, steps))


def _document(
    found: Found, config: Config, device: torch.device, limits: Mapping[str, float], ceiling: dict[str, float]
) -> dict[str, Any]:
    from kernels.bench.machine import machine_facts, source_commit
    from s4d.analysis.step_profile.document import profile_numbers

    return {
        "schema": 1,
        "kind": "measurement",
        "what": "step",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "machine": machine_facts(device),
        "run": _run_facts(config),
        "ceiling": ceiling,
        **profile_numbers(found, config.engine.precision, limits, on_gpu=device.type == "cuda"),
    }


def _run_facts(config: Config) -> dict[str, Any]:
    return {
        "name": config.name,
        "task": config.task,
        "mode": config.mode if config.task == "finetune" else None,
        "size": config.model.size,
        "image_size": config.model.image_size,
        "num_frames": config.model.num_frames,
        "per_step": dict(config.batch.per_step),
        "accumulation": config.batch.accumulation,
        "batching": config.batch.batching,
        "zero_stage": config.engine.zero_stage,
        "offload": config.engine.offload,
        "precision": config.engine.precision,
    }


def _show(document: Mapping[str, Any]) -> None:
    from s4d.analysis.step_profile.table import COLUMNS, summary, table

    print_lines(summary(document))
    print_table(COLUMNS, table(document))
    print_lines(["largest gaps to the roofline:", *(f"  {gap['text']}" for gap in document["gaps"])])
