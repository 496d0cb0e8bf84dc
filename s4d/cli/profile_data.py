"""`s4d profile data`: clips and images a second of every backend beside a plain pipeline, and where the time goes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4d.cli.bench import Device, chosen_device
from s4d.cli.output import print_json, print_lines, print_table, relative
from s4d.errors import DataError, UsageError

if TYPE_CHECKING:
    import torch

    from s4d.analysis.profile_data import Options
    from s4d.analysis.profile_files import Files

# Thins clips to the frames that views of 16 frames at stride 4 take.
CACHE_SIDE, CACHE_FRAMES = 192, "16x4"
WAIT_STEPS = 20


def data(
    *,
    files: Annotated[
        Path | None, typer.Option(help="Folder of videos and images; generated ones by default.", show_default=False)
    ] = None,
    device: Device = None,
    workers: Annotated[str, typer.Option(help="Numbers of decoding processes, separated by commas.")] = "0,1,2",
    rounds: Annotated[int, typer.Option(min=1, help="Timings of each row, which take turns.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.01, help="Length of a timing.")] = 1.5,
    names: Annotated[int, typer.Option(min=16, help="Most files of a kind; no timing visits one twice.")] = 512,
    json: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE|-",
            help="Where to write the results, - for stdout instead of tables; "
            "generated files write data.json below benchmarks/results by default.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure how fast files become batches, and where the time goes; exit 1 if pixels differ from the plain path's."""
    from s4d.analysis.profile_data import Options
    from s4d.analysis.profile_files import found_files, generated_files
    from s4d.cli.bench_files import results_folder, write_document

    target = chosen_device(device)
    options = Options(rounds=rounds, seconds=seconds, workers=_numbers(workers))
    with tempfile.TemporaryDirectory(prefix="s4d-profile-") as folder:
        chosen = generated_files(Path(folder), names) if files is None else found_files(files, Path(folder), names)
        document = _measured(chosen, options, target, Path(folder))
    if json == "-":
        print_json(document)
    else:
        _show(document)
    # Other files must not replace the results of the generated ones.
    file = None if json == "-" else Path(json) if json else results_folder(target) / "data.json"
    if file is not None and (json or files is None):
        write_document(file, document)
        print_lines([f"results: {relative(file)}"])
    if document["failures"]:
        raise typer.Exit(1)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (-1,)
    if min(found) < 0:
        raise UsageError(f"--workers: expected numbers such as 0,1,2, got {text!r}")
    return found


def _measured(files: Files, options: Options, device: torch.device, folder: Path) -> dict[str, Any]:
    """The document of a whole run."""
    from dataclasses import replace

    from kernels.bench.machine import machine_facts, source_commit
    from s4d.analysis.profile_data import OPTIONAL, first_difference, measure, medians, refusal_of, split
    from s4d.analysis.profile_goals import evaluate

    refusals = {
        (backend, modality): refusal_of(backend, files, modality, device)
        for backend, decoded in OPTIONAL.items()
        for modality in files.manifests
        if modality in decoded
    }
    absent = [
        {"backend": backend, "reason": f"{modality}: {reason}".replace(f"{folder}{os.sep}", "")}
        for (backend, modality), reason in refusals.items()
        if reason
    ]
    optional = {
        backend: tuple(modality for modality in decoded if refusals.get((backend, modality), "no files") is None)
        for backend, decoded in OPTIONAL.items()
    }
    options = replace(options, caches=_caches(files, folder, absent), optional=optional, device=device)
    difference = first_difference(files, options)
    rows = measure(files, options, _tell)
    splits = [
        {"modality": modality, "backend": "cache" if cached else "pyav"}
        | medians([split(modality, files, options, cached=cached) for _ in range(options.rounds)])
        for modality in files.manifests
        for cached in ((False, True) if modality in options.caches else (False,))
    ]
    return {
        "schema": 1,
        "kind": "measurement",
        "what": "data",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "machine": {**machine_facts(device), "decoders": _versions()},
        "files": files.what,
        "options": {
            "batch": options.batch,
            "seconds": options.seconds,
            "rounds": options.rounds,
            "workers": list(options.workers),
            "view": "16 frames at stride 4, 160 x 160",
            "cache": f"short side {CACHE_SIDE}, frames {CACHE_FRAMES}",
        },
        "rows": rows,
        "split_ms": splits,
        "gpu_wait": _gpu_wait(files, options, device, absent),
        "absent": absent,
        "failures": [] if difference is None else [difference],
        "goals": evaluate(rows),
    }


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _caches(files: Files, folder: Path, absent: list[dict[str, str]]) -> dict[str, Path]:
    """A cache of the files of each modality."""
    from s4d.data.cache.recipe import CacheRecipe
    from s4d.data.cache.write import CacheOptions, write_cache

    recipe = CacheRecipe(short_side=CACHE_SIDE, frames=CACHE_FRAMES)
    caches = {}
    for modality, manifest in files.distinct.items():
        caches[modality] = folder / f"cache-{modality}"
        try:
            write_cache(manifest, caches[modality], recipe, CacheOptions(workers=0), lambda *_: None)
        except DataError as error:
            del caches[modality]
            absent.append({"backend": "cache", "reason": str(error)})
    return caches


def _gpu_wait(
    files: Files, options: Options, device: torch.device, absent: list[dict[str, str]]
) -> list[dict[str, Any]]:
    """Rows of `gpu_wait` for every backend that runs; none without a GPU or without both modalities."""
    if device.type != "cuda" or len(files.manifests) < 2:
        reason = "no CUDA device on this machine" if device.type != "cuda" else "needs videos and images"
        absent.append({"backend": "GPU wait", "reason": reason})
        return []
    from s4d.analysis.gpu_wait import gpu_wait

    workers = max(1, (os.cpu_count() or 2) - 1)
    ways: list[Mapping[str, Any]] = [{}, {"caches": options.caches}] if len(options.caches) == 2 else [{}]
    if not any(item["backend"] == "dali" for item in absent):
        ways.append({"backend": "dali"})
    rows = []
    for way in ways:
        try:
            rows.append(gpu_wait(files, device, workers=workers, steps=WAIT_STEPS, **way))
        except UsageError as error:
            absent.append({"backend": "GPU wait", "reason": str(error)})
    return rows


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    import av

    codecs = ".".join(map(str, av.library_versions["libavcodec"]))
    found = {"av": av.__version__, "libavcodec": codecs, "pillow": version("pillow")}
    with suppress(PackageNotFoundError):
        found["torchcodec"] = version("torchcodec")
    return found


def _show(document: dict[str, Any]) -> None:
    from s4d.analysis.profile_goals import PLAIN, best

    print_lines([document["files"]])
    rows: list[tuple[object, ...]] = []
    for row in document["rows"]:
        plain = best(document["rows"], row["modality"], PLAIN, row["crop"])
        ratio = row["samples_per_second"] / plain["samples_per_second"] if plain else 0.0
        rate = f"{row['samples_per_second']:.0f}"
        rows.append((row["modality"], row["crop"], row["backend"], row["workers"], rate, f"{ratio:.2f}x"))
    print_table(("modality", "crop", "backend", "workers", "samples/s", "to the best plain row"), rows)
    ms: Callable[[float], str] = "{:.3f}".format
    stages = ("read", "decode", "transform", "pack")
    print_table(
        ("modality", "backend", *(f"{stage}, ms a sample" for stage in stages)),
        [(part["modality"], part["backend"], *(ms(part[stage]) for stage in stages)) for part in document["split_ms"]],
    )
    if document["gpu_wait"]:
        print_table(
            ("backend", "workers", "step, ms", "GPU waits"),
            [
                (row["backend"], row["workers"], ms(row["step_ms"]), f"{row['wait_share']:.1%}")
                for row in document["gpu_wait"]
            ],
        )
    for item in document["absent"]:
        print_lines([f"absent: {item['backend']}: {item['reason']}"])
    for failure in document["failures"]:
        print_lines([f"WRONG: {failure}"])
    for goal in document["goals"]:
        state = "FAIL" if goal["state"] == "fail" else goal["state"]
        value = "" if goal["value"] is None else f" {goal['value']:.2f}x"
        print_lines([f"{state}: {goal['goal']}:{value} ({goal['detail']})"])
