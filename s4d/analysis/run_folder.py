"""Reads the files of one run folder; what a run did not record is None or empty, what is broken is a DataError."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from s4d.analysis.artefacts import read_json, read_reconstructions, read_routings, read_scores
from s4d.analysis.class_scores import HeadScores
from s4d.analysis.curves import is_number
from s4d.analysis.pictures.record import PICTURES_FILE, Pictures, read_pictures
from s4d.analysis.reconstruction_grid import Reconstructions
from s4d.analysis.routing_maps import Routing
from s4d.config_yaml import read_yaml
from s4d.errors import DataError, UsageError

MARKS = ("metrics.jsonl", "config.yaml", "evaluation.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run: its folder's name, what it was configured to do and what it recorded."""

    name: str
    path: Path
    task: str | None
    config_text: str | None
    environment: dict[str, object]
    metrics: list[dict[str, float]]
    scores: dict[str, list[HeadScores]]
    routings: list[Routing]
    reconstructions: list[Reconstructions]
    pictures: Pictures | None


def find_runs(folder: Path) -> list[Run]:
    """The run in `folder`, or the runs in the folders just below it, in order of their start; UsageError if none."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    if _is_run(folder):
        return [read_run(folder)]
    below = [path for path in folder.iterdir() if path.is_dir() and _is_run(path)]
    if not below:
        raise UsageError(f"{folder}: holds no run (looked for {', '.join(MARKS)} here and one folder below)")
    order = {"pretrain": 0, "finetune": 1, "scratch": 2}
    return [read_run(path) for path in sorted(below, key=lambda path: (order.get(path.name, len(order)), path.name))]


def read_run(path: Path) -> Run:
    """Everything the report needs from one run folder."""
    config = path / "config.yaml"
    values = read_yaml(config) if config.is_file() else {}
    task = values.get("task")
    return Run(
        name=path.resolve().name,
        path=path,
        task=task if isinstance(task, str) else None,
        config_text=config.read_text(encoding="utf-8") if config.is_file() else None,
        environment=read_json(path / "env.json"),
        metrics=_read_metrics(path / "metrics.jsonl"),
        scores={
            weights: read_scores(path / f"evaluation{suffix}.json")
            for weights, suffix in (("last", ""), ("ema", "-ema"))
            if (path / f"evaluation{suffix}.json").is_file()
        },
        routings=read_routings(path / "routing.json"),
        reconstructions=read_reconstructions(path / "reconstructions.npz"),
        pictures=read_pictures(path / PICTURES_FILE),
    )


def _is_run(path: Path) -> bool:
    return any((path / mark).is_file() for mark in MARKS)


def _read_metrics(path: Path) -> list[dict[str, float]]:
    """Records with a step number; a last line that a crash cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise DataError(f"{path}: line {number}: not JSON: {error}") from error
        if not isinstance(record, dict) or not is_number(record.get("step")):
            raise DataError(f"{path}: line {number}: expected an object with a number `step`")
        records.append(record)
    return records
