"""The page of a profile: one HTML document with the split, the roofline and the largest gaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure

from s4d.analysis.html_page import render_page
from s4d.analysis.picture import SERIES, Picture, draw_picture
from s4d.analysis.step_profile.attribution import FORWARD
from s4d.analysis.step_profile.marks import AROUND, BACKWARD
from s4d.analysis.step_profile.result import PHASES, duration
from s4d.analysis.step_profile.table import COLUMNS, NOTHING, summary, table

TEMPLATE = "step_profile/page.html.j2"
# Of the axes of the roofline, beside its points.
MARGIN = 3.0
MARKERS = {FORWARD: "o", BACKWARD: "s"}


def profile_page(document: Mapping[str, Any]) -> str:
    """The page of a document of `s4d profile step`."""
    rates = document["rates"]
    tiles = [
        (duration(rates["step_seconds"]), "of a step"),
        (f"{rates['clips_per_second']:.3g}", "clips a second"),
        (f"{rates['images_per_second']:.3g}", "images a second"),
        (f"{document['utilisation']['share']:.0%}", "of the matmul limit"),
        (str(document["host_syncs"]["ours_in_forward_and_backward"]), "host waits in our forward and backward"),
    ]
    return render_page(
        TEMPLATE,
        title=f"Step profile: {document['run']['name']}",
        tiles=tiles,
        summary=summary(document),
        split=_split_picture(document),
        roofline=_roofline_picture(document),
        gaps=[gap["text"] for gap in document["gaps"]],
        columns=COLUMNS,
        rows=table(document),
        syncs=document["host_syncs"]["rows"],
        backends=document["run"]["backends"],
    )


def _pieces(document: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(name, seconds forward, seconds backward) of all that took time; what surrounds the model counts as forward."""
    found = [
        (name, phases[FORWARD]["seconds"], phases[BACKWARD]["seconds"]) for name, phases in document["parts"].items()
    ]
    found.append(("backward, no part", 0.0, document["backward_outside_seconds"]))
    left_out = {BACKWARD, "data wait"} if document["run"]["synthetic"] else {BACKWARD}
    found += [(name, document["split"][name], 0.0) for name in AROUND if name not in left_out]
    least = NOTHING * document["rates"]["step_seconds"]
    return [piece for piece in found if piece[1] + piece[2] > least]


def _split_picture(document: Mapping[str, Any]) -> Picture:
    pieces, step = _pieces(document), document["rates"]["step_seconds"]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        places = range(len(pieces))
        forward = [1e3 * first for _, first, _ in pieces]
        backward = [1e3 * second for _, _, second in pieces]
        axes.barh(places, forward, color=SERIES[0], height=0.65, label="forward, or no phase")
        axes.barh(places, backward, left=forward, color=SERIES[1], height=0.65, label="backward")
        for place, (_, first, second) in zip(places, pieces, strict=True):
            axes.text(1e3 * (first + second), place, f"  {(first + second) / step:.1%}", va="center", fontsize=8.5)
        axes.set_yticks(places, [name for name, _, _ in pieces])
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel("milliseconds of a step")
        axes.set_title(f"step: {duration(step)}", loc="left")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.legend(loc="lower right")

    text = ", ".join(f"{name} {duration(first + second)}" for name, first, second in pieces)
    return draw_picture(
        draw,
        size=(7.6, 1.2 + 0.32 * len(pieces)),
        alt=f"Bars of the parts of a step of {duration(step)}: {text}.",
        caption="Where the time of a step goes. All bars together are the step.",
    )


def _points(document: Mapping[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    """(part, phase, FLOPs per byte, FLOP/s) of all that computes."""
    for part, phases in document["parts"].items():
        for phase in PHASES:
            row = phases[phase]
            if row["flops"] and row["bytes"] and row["flops_per_second"]:
                yield part, phase, row["flops"] / row["bytes"], row["flops_per_second"]


def _roofline_picture(document: Mapping[str, Any]) -> Picture:
    points = list(_points(document))
    limits = document["limits"]
    ridge = limits["flops"] / limits["bytes"]
    names = list(dict.fromkeys(point[0] for point in points))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        left = min([point[2] for point in points] + [ridge]) / MARGIN
        right = max([point[2] for point in points] + [ridge]) * MARGIN
        roof = [limits["bytes"] * left, limits["flops"], limits["flops"]]
        axes.plot([left, ridge, right], roof, color=SERIES[6], label="limit measured in this run")
        for part, phase, intensity, rate in points:
            color = SERIES[names.index(part)]
            axes.plot(intensity, rate, MARKERS[phase], color=color, label=part if phase == FORWARD else None)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("FLOP per byte that must move")
        axes.set_ylabel("FLOP/s")
        axes.set_title("roofline", loc="left")
        axes.grid(which="major")
        figure.legend(loc="outside right upper")

    text = ", ".join(f"{part} {phase} at {rate / 1e9:.3g} GFLOP/s" for part, phase, _, rate in points)
    return draw_picture(
        draw,
        size=(7.6, 4.0),
        alt=f"Roofline, limits {limits['flops'] / 1e9:.3g} GFLOP/s and {limits['bytes'] / 1e9:.3g} GB/s: {text}.",
        caption="Circles: forward, squares: backward. The distance to the line above is what a part could gain.",
    )
