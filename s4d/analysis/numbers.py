"""Every number of a report as nested plain values: the content of report.json."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from s4d.analysis.class_scores import HeadScores
from s4d.analysis.curves import Metrics, series
from s4d.analysis.routing_maps import Routing, routing_numbers
from s4d.analysis.run_folder import Run
from s4d.analysis.step_time import time_split

SCRATCH = "scratch"
TAIL_SHARE = 0.05


def report_numbers(runs: Sequence[Run]) -> dict[str, object]:
    """`image` and `video`: scores of the fine-tuned run; `scratch`: the same from scratch; losses; all runs in full."""
    numbers: dict[str, object] = {}
    main = main_run(runs)
    if main is not None:
        numbers |= modality_scores(main)
    for run in runs:
        if run.name == SCRATCH:
            numbers[SCRATCH] = {**modality_scores(run), "loss": loss_ends(run.metrics)}
        elif run.task is not None:
            numbers.setdefault(run.task, {"run": run.name, "loss": loss_ends(run.metrics)})
    numbers["runs"] = {run.name: run_numbers(run) for run in runs}
    return numbers


def main_run(runs: Sequence[Run]) -> Run | None:
    """The evaluated run that the headline numbers come from: the first that is not the comparison from scratch."""
    evaluated = [run for run in runs if run.scores]
    return next((run for run in evaluated if run.name != SCRATCH), evaluated[0] if evaluated else None)


def modality_scores(run: Run) -> dict[str, dict[str, object]]:
    """Scores of the run's last weights by modality; the first source of a modality speaks for it."""
    found: dict[str, dict[str, object]] = {}
    for head in run.scores.get("last", []):
        found.setdefault(head.modality, {"source": head.source, **head.numbers})
    return found


def loss_ends(metrics: Metrics, key: str = "loss") -> dict[str, float | None]:
    """First and last logged value, and the mean over the last twentieth of the records."""
    values = series(metrics, key)[1]
    if not values:
        return {"first": None, "last": None, "last_mean": None}
    tail = values[-max(1, round(len(values) * TAIL_SHARE)) :]
    return {"first": values[0], "last": values[-1], "last_mean": statistics.fmean(tail)}


def run_numbers(run: Run) -> dict[str, object]:
    """One run: length, ends of every recorded curve, scores, expert load, step time."""
    keys = dict.fromkeys(key for record in run.metrics for key in record)
    curves = [key for key in keys if key.startswith(("loss", "balance/", "accuracy/")) or key in ("lr", "grad_norm")]
    return {
        "task": run.task,
        "steps": int(run.metrics[-1]["step"]) if run.metrics else None,
        "curves": {key: loss_ends(run.metrics, key) for key in curves if series(run.metrics, key)[1]},
        "step_seconds": time_split(run.metrics),
        "scores": {
            weights: {head.source: head_numbers(head) for head in heads} for weights, heads in run.scores.items()
        },
        "routing": {routing.source: _routing(routing) for routing in run.routings},
        "features": dict(run.pictures.features.numbers) if run.pictures and run.pictures.features else None,
    }


def head_numbers(head: HeadScores) -> dict[str, object]:
    """Scores of one head with its classes, recalls and confusion matrix."""
    return {
        "modality": head.modality,
        **head.numbers,
        **({"frame_uar": list(head.frame_uar)} if head.frame_uar else {}),
        "classes": list(head.classes),
        "recall": dict(zip(head.classes, head.recalls, strict=True)),
        "confusion": head.confusion.tolist(),
    }


def _routing(routing: Routing) -> dict[str, object]:
    by_class = routing.by_class().tolist()
    return {
        "modality": routing.modality,
        "layers": routing_numbers(routing),
        "load_by_layer": dict(zip(map(str, routing.layers), routing.by_layer().tolist(), strict=True)),
        "load_by_class": dict(zip(routing.classes, by_class, strict=True)),
    }
