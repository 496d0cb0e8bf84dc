"""A profile as text: a few lines and a table of the parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s4d.analysis.step_profile.attribution import FORWARD
from s4d.analysis.step_profile.marks import AROUND, BACKWARD
from s4d.analysis.step_profile.result import duration

COLUMNS = ("part", "forward", "backward", "of the step", "floor", "gap", "TFLOP/s", "GB/s", "of the limit")
# Where a step spent less than this share, a part has not run.
NOTHING = 1e-12


def summary(document: Mapping[str, Any]) -> list[str]:
    """What was profiled and the numbers of the whole step."""
    run, rates, machine = document["run"], document["rates"], document["machine"]
    quotas = ", ".join(f"{count} {name}" for name, count in run["per_step"].items())
    syncs, launches = document["host_syncs"], document["launches"]
    lines = [
        f"{run['name']}: {run['task']}, size {run['size']}, {run['precision']}, ZeRO {run['zero_stage']}, one rank, "
        f"{quotas} a step, on {machine['device_name']}",
        _live(run),
        *(["random pixels: waiting for data is not measured"] if run["synthetic"] else []),
        f"step {duration(rates['step_seconds'])}: {rates['clips_per_second']:.3g} clips/s, "
        f"{rates['images_per_second']:.3g} images/s, {rates['tokens_per_second']:.4g} tokens/s",
        f"model arithmetic at {document['utilisation']['share']:.1%} of the measured matmul limit",
        f"the profiler slowed the step down {document['profiler']['slow_down']:.2f}x; times are of the step without it",
        f"{'kernels' if machine['device'] == 'cuda' else 'ops'} started in a step: "
        + ", ".join(f"{phase} {count}" for phase, count in launches.items()),
        f"host waits in our forward and backward: {syncs['ours_in_forward_and_backward']}",
    ]
    lines += [f"  {row['count']} x {row['call']} in {row['phase']}: {row['place']}" for row in syncs["rows"]]
    if document["python_seconds"] is not None:
        lines.append(f"Python between ops, in all parts: {duration(document['python_seconds'])}")
    memory = ", ".join(f"{name.replace('_', ' ')} {size / 1e6:.1f} MB" for name, size in document["memory"].items())
    return [*lines, f"memory: {memory}"]


def _live(run: Mapping[str, Any]) -> str:
    line = f"forward and backward: {run['step']}"
    if run["step"] != "graph":
        return line
    return (
        f"{line}, replayed in {run['replayed_steps']} of {run['undisturbed_steps']} steps; the split is of plain steps"
    )


def table(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the parts, then of what surrounds them; the last row is the whole step."""
    step = document["rates"]["step_seconds"]
    rows = [_part(name, phases, step) for name, phases in document["parts"].items()]
    outside = document["backward_outside_seconds"]
    rows.append(("backward, no part", "", duration(outside), f"{outside / step:.1%}", "", "", "", "", ""))
    for name in AROUND:
        seconds = document["split"][name]
        if name == "data wait" and document["run"]["synthetic"]:
            rows.append((name, "not measured", *[""] * 7))
        elif name == "optimizer":
            rows.append(_optimizer(document["optimizer"], step))
        elif name != BACKWARD:
            rows.append((name, duration(seconds), "", f"{seconds / step:.1%}", "", "", "", "", ""))
    backward = document["split"][BACKWARD]
    return [*rows, ("step", duration(step - backward), duration(backward), "100%", "", "", "", "", "")]


def _part(name: str, phases: Mapping[str, Any], step: float) -> tuple[str, ...]:
    forward, backward = phases[FORWARD], phases[BACKWARD]
    seconds, floor, flops, moved = (
        forward[key] + backward[key] for key in ("seconds", "floor_seconds", "flops", "bytes")
    )
    if seconds < NOTHING * step:
        return (name, *["-"] * 8)
    return (
        name,
        duration(forward["seconds"]),
        duration(backward["seconds"]),
        f"{seconds / step:.1%}",
        duration(floor),
        duration(max(0.0, seconds - floor)),
        f"{flops / seconds / 1e12:.3g}",
        f"{moved / seconds / 1e9:.3g}",
        f"{floor / seconds:.0%}",
    )


def _optimizer(row: Mapping[str, Any], step: float) -> tuple[str, ...]:
    seconds, floor = row["seconds"], row["floor_seconds"]
    if seconds <= 0:
        return ("optimizer", *["-"] * 8)
    return (
        "optimizer",
        duration(seconds),
        "",
        f"{seconds / step:.1%}",
        duration(floor),
        duration(max(0.0, seconds - floor)),
        "",
        f"{row['bytes'] / seconds / 1e9:.3g}",
        f"{floor / seconds:.0%}",
    )
