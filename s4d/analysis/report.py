"""Writes `report/index.html`, one file with everything embedded, and `report/report.json` beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from s4d.analysis.class_scores import score_pictures
from s4d.analysis.curves import curve_pictures
from s4d.analysis.html_page import render_page
from s4d.analysis.numbers import SCRATCH, main_run, modality_scores, report_numbers
from s4d.analysis.picture import Picture
from s4d.analysis.pictures.drawing.parts import picture_parts
from s4d.analysis.reconstruction_grid import reconstruction_picture
from s4d.analysis.routing_maps import routing_pictures
from s4d.analysis.run_folder import Run, find_runs
from s4d.analysis.step_time import time_picture
from s4d.atomic_files import write_atomically
from s4d.json_text import finite, to_json

TEMPLATE = "page.html.j2"
COMPARED = ("uar", "war", "macro_f1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of a run's section; without pictures the page says what is `absent`."""

    title: str
    pictures: list[Picture]
    wide: bool = False
    absent: str = "Not recorded by this run."


def write_report(folder: Path) -> tuple[Path, dict[str, object]]:
    """Report on the run in `folder` or on the runs just below it; returns the page's path and every number."""
    runs = find_runs(folder)
    numbers = report_numbers(runs)
    page = _page(folder, runs)
    target = folder / "report" / "index.html"
    write_atomically(target, page)
    write_atomically(target.with_name("report.json"), to_json(numbers))
    plain = finite(numbers)
    assert isinstance(plain, dict)
    return target, plain


def _page(folder: Path, runs: list[Run]) -> str:
    return render_page(
        TEMPLATE,
        title=f"S4D report: {folder.resolve().name}",
        tiles=_tiles(runs),
        comparison=_comparison(runs),
        sections=[{"run": run, "parts": _parts(run), "tables": _score_rows(run)} for run in runs],
    )


def _parts(run: Run) -> list[Part]:
    heads = run.scores.get("last", [])
    times = time_picture(run.metrics)
    parts = [Part(title="Training", pictures=curve_pictures(run.metrics))]
    if run.task == "pretrain" or run.reconstructions:
        grids = [reconstruction_picture(samples) for samples in run.reconstructions]
        parts.append(Part(title="Reconstructions", pictures=grids, wide=True))
    if run.task == "finetune" or heads:
        if not heads:
            parts.append(Part(title="Recognition", pictures=[]))
        for head in heads:
            parts.append(Part(title=f"Recognition: {head.source} ({head.modality})", pictures=score_pictures(head)))
        parts.append(Part(title="Expert routing", pictures=routing_pictures(run.routings)))
        parts += _model_parts(run)
    parts.append(Part(title="Step time", pictures=[times] if times else []))
    return parts


def _model_parts(run: Run) -> list[Part]:
    """What goes on inside the model; made by a command of its own, since it takes forwards over the test split."""
    if run.pictures is None:
        missing = f"None yet: `s4d analyze pictures {run.path}` computes them for the next report."
        return [Part(title="Inside the model", pictures=[], absent=missing)]
    drawn = picture_parts(run.pictures)
    return [Part(title=title, pictures=pictures, wide=True) for title, pictures in drawn.items()]


def _tiles(runs: list[Run]) -> list[tuple[str, float | None]]:
    """Headline scores of the main run."""
    main = main_run(runs)
    if main is None:
        return []
    tiles = []
    for modality, scores in modality_scores(main).items():
        for key, label in (("uar", "UAR"), ("war", "WAR"), ("best_frame_uar", "UAR of the best single frame")):
            if key in scores:
                tiles.append((f"{modality} {label}", scores[key]))
    return [(label, value if isinstance(value, float) else None) for label, value in tiles]


def _comparison(runs: list[Run]) -> list[dict[str, object]]:
    """Rows (score, fine-tuned, from scratch, difference) when a run from scratch lies beside the main run."""
    main = main_run(runs)
    scratch = next((run for run in runs if run.name == SCRATCH and run.scores), None)
    if main is None or scratch is None or main is scratch:
        return []
    ours, theirs = modality_scores(main), modality_scores(scratch)
    rows = []
    for modality in ours:
        for key in COMPARED:
            first, second = ours[modality].get(key), theirs.get(modality, {}).get(key)
            if isinstance(first, float) and isinstance(second, float):
                rows.append({"name": f"{modality} {key}", "main": first, "scratch": second, "gain": first - second})
    return rows


def _score_rows(run: Run) -> dict[str, object]:
    """Table of all numbers, a column for each head with the last and the averaged weights: columns and rows."""
    heads = [(weights, head) for weights, group in run.scores.items() for head in group]
    names = list(dict.fromkeys(name for _, head in heads for name in head.numbers))
    rows = [
        (name.removeprefix("num_").replace("_", " "), *(_in_words(head.numbers.get(name)) for _, head in heads))
        for name in names
    ]
    if rows:
        rows.append(("uar by guessing", *(_in_words(1 / len(head.classes)) for _, head in heads)))
    titles = [f"{head.source} ({head.modality}), {weights} weights" for weights, head in heads]
    return {"columns": ["score", *titles], "rows": rows}


def _in_words(number: float | None) -> str:
    return "-" if number is None else f"{number:.4g}"
