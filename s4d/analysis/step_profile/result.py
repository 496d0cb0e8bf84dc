"""From the times of labels and the work of parts to the numbers of a profile: rates, floors, gaps.

All times are seconds of one step. A floor is the roofline: what the part's arithmetic and least traffic take at the
limits that were measured in the same run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernels.bench.floors import roofline_seconds
from kernels.launch import Work
from s4d.analysis.step_profile.attribution import FORWARD, Label
from s4d.analysis.step_profile.load import OPTIMIZER_BYTES, Load
from s4d.analysis.step_profile.marks import AROUND, BACKWARD
from s4d.analysis.step_work import PARTS

GAPS = 5
PHASES = (FORWARD, BACKWARD)
Times = Mapping[Label, float]


def fitted(times: Times, step: float, *, on_gpu: bool) -> dict[Label, float]:
    """Times of a profiled step as shares of the undisturbed one, of `step` seconds.

    The profiler slows the host down. On a CPU, where that is all there is, every time shrinks alike. Kernels on a GPU
    take as long as ever, and only the device's waiting shrinks, unless there is too little of it.
    """
    busy = sum(seconds for label, seconds in times.items() if label.part != "idle")
    if on_gpu and busy <= step:
        return {
            **{label: seconds for label, seconds in times.items() if label.part != "idle"},
            Label("idle"): step - busy,
        }
    factor = step / sum(times.values())
    return {label: seconds * factor for label, seconds in times.items()}


def split(times: Times) -> dict[str, float]:
    """Seconds of the model's parts forward, then of what surrounds them, the whole backward among it."""
    found = dict.fromkeys((*PARTS, *AROUND), 0.0)
    for label, seconds in times.items():
        found[BACKWARD if label.phase == BACKWARD else label.part] += seconds
    return found


def part_rows(times: Times, load: Load, limits: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Of every part, forward and backward: seconds, work, rates, floor and gap."""
    return {
        part: {
            phase: measured(times.get(Label(part, phase), 0.0), getattr(load.work[part], phase), limits)
            for phase in PHASES
        }
        for part in PARTS
    }


def measured(seconds: float, work: Work, limits: Mapping[str, float]) -> dict[str, Any]:
    """One time beside its work; `limits` are `flops` and `bytes` a second. `bound` names what the floor is made of."""
    floor = roofline_seconds((work,), limits)
    return {
        "seconds": seconds,
        "flops": work.flops,
        "bytes": work.bytes,
        "flops_per_second": work.flops / seconds if seconds else None,
        "bytes_per_second": work.bytes / seconds if seconds else None,
        "floor_seconds": floor,
        "gap_seconds": seconds - floor,
        "bound": "arithmetic" if work.flops / limits["flops"] >= work.bytes / limits["bytes"] else "traffic",
    }


def optimizer_row(seconds: float, parameters: int, precision: str, limits: Mapping[str, float]) -> dict[str, Any]:
    """The update of all weights, which is traffic."""
    return measured(seconds, Work(flops=0.0, bytes=float(OPTIMIZER_BYTES[precision] * parameters)), limits)


def largest_gaps(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts, forward and backward together, that are furthest above their floors."""
    rows = []
    for part, phases in document["parts"].items():
        seconds, floor = (sum(phases[phase][key] for phase in PHASES) for key in ("seconds", "floor_seconds"))
        rows.append((part, seconds, floor))
    rows.append(("optimizer", document["optimizer"]["seconds"], document["optimizer"]["floor_seconds"]))
    rows.append(("backward outside of parts", document["backward_outside_seconds"], 0.0))
    rows += [(name, document["split"][name], 0.0) for name in AROUND if name not in (BACKWARD, "optimizer")]
    rows.sort(key=lambda row: row[2] - row[1])
    return [
        {
            "part": part,
            "seconds": seconds,
            "floor_seconds": floor,
            "gap_seconds": seconds - floor,
            "text": f"{part}: {duration(seconds)}, floor {duration(floor)}",
        }
        for part, seconds, floor in rows[:GAPS]
        if seconds > floor
    ]


def duration(seconds: float) -> str:
    """Three digits of a time in s, ms or us."""
    if seconds == 0:
        return "0"
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= 0.9995 * unit:
            return f"{_three_digits(seconds / unit)} {name}"
    return f"{_three_digits(seconds / 1e-6)} us"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"
