"""`s4d plan`: what a run takes on a cluster, before it starts: memory, time, messages, and what limits it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4d.cli.completion import ConfigOption
from s4d.cli.output import AsJson, print_json, print_lines, print_table
from s4d.errors import UsageError

if TYPE_CHECKING:
    from engine.footprint import Case
    from s4d.analysis.plan.choice import State, Way
    from s4d.analysis.plan.gpus import Gpu
    from s4d.analysis.plan.recipe import Recipe
    from s4d.analysis.plan.seconds import Speed
    from s4d.config import Config

GIGA = 1e9
HOUR = 3600.0
# Bytes that AdamW moves for each weight: fp32 weight and both moments both ways, the gradient; the weight that the
# model computes with; and, where an average is kept, the weight again and the average both ways.
MOVED, MOVED_BF16, MOVED_AVERAGE = 28, 2, 12


def plan(
    config: ConfigOption,
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value ...", show_default=False)] = None,
    *,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of each.")] = 1,
    gpu: Annotated[str, typer.Option(help="h200, h100, b200, a100, a100-40gb, l40s or l4.")] = "h200",
    network: Annotated[
        float | None,
        typer.Option(min=0.1, help="Gbit/s of the network for each GPU, in place of the table's.", show_default=False),
    ] = None,
    samples: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE=N", help="Training samples of a source, in place of its manifest's."),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            help="Results of `s4d profile step` on such a GPU, in place of assumed speeds.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which ZeRO stage and micro batch to run, how fast it will be, how long it takes and what limits it."""
    from s4d.analysis.plan.gpus import find_gpu
    from s4d.analysis.plan.recipe import read_recipe
    from s4d.config import blamed_on, load

    settings = load(config, overrides)
    row, counts = find_gpu(gpu, network), _counts(samples or [])
    with blamed_on(config, overrides or []):
        recipe = read_recipe(settings, counts)
        document, found, chosen = _planned(settings, recipe, row, nodes, gpus_per_node, profile)
    if as_json:
        print_json(document)
    else:
        _show(document, recipe, found, chosen)
    if chosen is None:
        raise typer.Exit(1)


def _counts(wishes: list[str]) -> dict[str, int]:
    found = {}
    for wish in wishes:
        name, _, count = wish.partition("=")
        if not name or not count.isascii() or not count.isdigit() or int(count) < 1:
            raise UsageError(f"--samples: expected SOURCE=N with a whole N of 1 or more, got {wish!r}")
        found[name] = int(count)
    return found


def _planned(
    config: Config, recipe: Recipe, gpu: Gpu, nodes: int, gpus_per_node: int, profile: Path | None
) -> tuple[dict[str, Any], list[Way], Way | None]:
    """The document, every way and the chosen one."""
    from engine.recompute import spread_evenly
    from kernels.bench.machine import source_commit
    from s4d.analysis.plan.activations import backends_of
    from s4d.analysis.plan.choice import as_document, choose, ways

    world_size = nodes * gpus_per_node
    speed, remarks = _speed(config, gpu, nodes, gpus_per_node, profile)
    backends, lines = backends_of(config.engine.backends)
    if config.engine.recompute:
        recipe = dataclasses.replace(
            recipe, recomputed=frozenset(spread_evenly(range(recipe.layers), config.engine.recompute))
        )
        lines.append(f"engine.recompute: {len(recipe.recomputed)} of {recipe.layers} layers are done again")
    found = ways(
        recipe,
        lambda stage, accumulation: _state(config, recipe, world_size, stage, accumulation),
        speed,
        world_size=world_size,
        memory=gpu.memory,
        backends=backends,
        drop_path=config.model.drop_path > 0,
    )
    if not found:
        raise UsageError(f"engine.offload: {config.engine.offload!r} serves none of the ZeRO stages")
    chosen = choose(found)
    hours = None if chosen is None or recipe.steps is None else chosen.step_seconds * recipe.steps / HOUR
    return (
        {
            "schema": 1,
            "kind": "plan",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": source_commit(),
            "config": config.name,
            "cluster": {"gpu": gpu.name, "nodes": nodes, "gpus_per_node": gpus_per_node, "gpu_bytes": gpu.memory},
            "parameters": sum(recipe.sizes),
            "steps": recipe.steps,
            "hours": hours,
            "decodes": {} if chosen is None else _decodes(config, recipe, chosen, nodes),
            "choice": None if chosen is None else as_document(chosen),
            "ways": [as_document(way) for way in found],
            "assumptions": [*remarks, *lines, *recipe.assumed],
        },
        found,
        chosen,
    )


def _decodes(config: Config, recipe: Recipe, way: Way, nodes: int) -> dict[str, float]:
    """Samples of each source that a node must decode in a second for the GPUs not to wait; views share a decode."""
    steps = {name: way.rate(name) / sum(kind.samples.get(name, 0) for kind in recipe.kinds) for name in recipe.kept}
    return {
        source.name: steps[source.modality] * recipe.quotas[source.name] / source.views / nodes
        for source in config.data.sources
    }


def _speed(config: Config, gpu: Gpu, nodes: int, gpus_per_node: int, profile: Path | None) -> tuple[Speed, list[str]]:
    """Rates and shares, and what is said about them."""
    from s4d.analysis.plan import choice, gpus, seconds
    from s4d.analysis.plan.measured import read_profile

    precision = config.engine.precision
    rates = gpus.reachable(gpu, precision, nodes=nodes, gpus_per_node=gpus_per_node)
    speed = seconds.Speed(rates=rates, shares=seconds.ASSUMED_SHARES)
    source = f"the data sheet's x {gpus.PRODUCT_SHARE:g} and x {gpus.COPY_SHARE:g}"
    shares = "of their floors' rates parts reach " + ", ".join(f"{n} {s:g}" for n, s in speed.shares.items())
    launches = f"{seconds.LAUNCHES_PER_BLOCK} kernels a block, {1e6 * seconds.LAUNCH_SECONDS:g} us each to start"
    if profile is not None:
        speed, device = read_profile(profile, speed)
        source = shares = launches = f"measured by {profile} on {device}"
        shares, launches = f"shares of floors: {shares}", f"kernel launches: {launches}"
    return speed, [
        f"products at {speed.rates.flops / 1e12:.0f} TFLOP/s ({precision}), memory at {speed.rates.memory / 1e12:.2f} "
        f"TB/s: {source}",
        f"a ring of all GPUs sends {speed.rates.link / GIGA:.0f} GB/s from each ({gpus.LINK_SHARE:g} of the slower of "
        "its links), and nothing is computed meanwhile",
        shares,
        launches,
        f"{choice.FIXED_BYTES / GIGA:.1f} GB for CUDA, NCCL and libraries; {choice.WASTE:.0%} of activations wasted by "
        "the allocator; all gradients held beside all activations",
        "batches are ready when they are wanted",
    ]


def _state(config: Config, recipe: Recipe, world_size: int, stage: int, accumulation: int) -> State | None:
    """One stage at one accumulation; None where what is to be offloaded is not divided."""
    from engine.footprint import Case

    if stage < {"none": 0, "optimizer": 1, "parameters": 3}[config.engine.offload]:
        return None
    case = Case(
        stage=stage,
        world_size=world_size,
        precision=config.engine.precision,
        offload=config.engine.offload,
        accumulation=accumulation,
        has_average=config.optim.ema is not None,
    )
    return rank_state(case, recipe.sizes)


def rank_state(case: Case, sizes: Sequence[int]) -> State:
    """What `engine.footprint` says of a rank that trains weights of these sizes."""
    from engine import footprint
    from s4d.analysis.plan.choice import State
    from s4d.analysis.plan.seconds import Update

    passing, traffic = footprint.passing(case, sizes), footprint.traffic(case, sizes)
    moved = MOVED + (MOVED_BF16 if case.precision == "bf16" else 0) + (MOVED_AVERAGE if case.has_average else 0)
    return State(
        held=footprint.on_device(case, footprint.memory(case, sizes)),
        backward=passing.backward,
        on_update=passing.update,
        update=Update(
            moved=moved * sum(sizes) / (case.world_size if case.stage else 1),
            on_host=case.offload != "none",
            messages=traffic,
            sent=sum(footprint.sent(name, size, case.world_size) for name, size in traffic.items()),
            calls=footprint.messages(case, sizes) if case.world_size > 1 else 0,
        ),
    )


COLUMNS = ("ZeRO", "", "micro steps", "images + videos", "GB", "step", "floor", "images/s", "clips/s", "most by")


def _show(document: dict[str, Any], recipe: Recipe, found: list[Way], chosen: Way | None) -> None:
    cluster = document["cluster"]
    world_size = cluster["nodes"] * cluster["gpus_per_node"]
    print_lines(
        [
            f"{document['config']}: {document['parameters'] / 1e6:.1f} million weights, {recipe.precision}, on "
            f"{cluster['nodes']} x {cluster['gpus_per_node']} {cluster['gpu']} ({world_size} GPUs)"
        ]
    )
    print_table(COLUMNS, [_cells(way, chosen) for way in found])
    if chosen is None:
        print_lines(["limit: memory; not even the smallest micro batch fits"])
    else:
        _show_choice(document, recipe, chosen)
    print_lines(["assumed:", *(f"  {line}" for line in document["assumptions"])])


def _cells(way: Way, chosen: Way | None) -> list[str]:
    return [
        str(way.stage),
        "chosen" if way is chosen else "" if way.fits else "too large",
        str(way.accumulation),
        f"{way.micro.get('image', 0)} + {way.micro.get('video', 0)}",
        f"{way.peak / GIGA:.1f}",
        _ms(way.step_seconds),
        _ms(way.floor_seconds),
        f"{way.rate('image'):.0f}",
        f"{way.rate('video'):.0f}",
        max(way.bound().items(), key=lambda item: item[1])[0],
    ]


def _show_choice(document: dict[str, Any], recipe: Recipe, way: Way) -> None:
    total = document["cluster"]["gpu_bytes"]
    memory = [(name, f"{size / GIGA:.2f}") for name, size in way.memory.items() if size]
    print_table(("memory of a GPU", "GB"), [*memory, ("peak", f"{way.peak / GIGA:.2f} of {total / GIGA:.0f}")])
    parts = [(name, _ms(floor), _ms(likely)) for name, (floor, likely) in way.parts().items() if likely]
    print_table(
        ("part of a step", "floor", "projected"), [*parts, ("step", _ms(way.floor_seconds), _ms(way.step_seconds))]
    )
    shares = sorted(way.bound().items(), key=lambda item: -item[1])
    limits = ", ".join(f"{name} {seconds / way.step_seconds:.0%}" for name, seconds in shares if seconds)
    lines = [
        f"run: engine.zero_stage={way.stage} batch.accumulation={way.accumulation}",
        f"limits: {limits}" + (", and memory, which sets the accumulation" if way.accumulation > 1 else ""),
        f"sent from each GPU a step: {way.sent / GIGA:.3f} GB",
    ]
    decodes = ", ".join(f"{name} {rate:.0f}" for name, rate in document["decodes"].items())
    lines.append(f"samples that each node must decode a second: {decodes}")
    if document["hours"] is not None:
        floor = way.floor_seconds * (recipe.steps or 0) / HOUR
        lines.append(f"{recipe.steps} steps: {document['hours']:.1f} hours (floor {floor:.1f})")
    print_lines(lines)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"
