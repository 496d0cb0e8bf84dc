"""What a checkpoint says of where its weights came from: data, numbering of the classes, run, and their scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s4d.config import Config
from s4d.data.manifest_io import read_manifest
from s4d.data.plan import SamplePlan
from s4d.data.sources import Source
from s4d.datasets.labels import numbering
from s4d.models.description import FORMAT
from s4d.tasks.evaluate import SourceResult


def origins_of(config: Config, plan: SamplePlan) -> dict[str, Any]:
    """The keys `format`, `data`, `labels` and `training` of `config.json`."""
    labels = {source.config.name: _labels(source) for source in plan.sources} if config.task == "finetune" else {}
    return {
        "format": FORMAT,
        "data": {source.config.name: _data(source) for source in plan.sources},
        **({"labels": labels} if labels else {}),
        "training": _training(config, plan),
    }


def _data(source: Source) -> dict[str, Any]:
    return {
        "dataset": read_manifest(source.config.manifest).dataset,
        "modality": source.config.modality,
        "manifest_sha256": source.fingerprint,
        "split": source.config.train_split,
        "fold": source.config.fold,
        "samples": len(source.rows),
    }


def _labels(source: Source) -> dict[str, Any]:
    wanted, dataset = source.config.classes, read_manifest(source.config.manifest).dataset
    order = f"order {wanted!r} of the run's configuration" if isinstance(wanted, str) else "the run's configuration"
    return numbering(source.classes, "the manifest" if wanted is None else order, dataset)


def _training(config: Config, plan: SamplePlan) -> dict[str, Any]:
    initial = config.model.init_from
    return {
        "name": config.name,
        "mode": config.mode if config.task == "finetune" else None,
        "recipe": config.recipe,
        "seed": config.seed,
        "steps": plan.total_steps,
        "views_per_step": dict(config.batch.per_step),
        "lr": config.optim.lr,
        "weight_decay": config.optim.weight_decay,
        "ema": config.optim.ema,
        "precision": config.engine.precision,
        # Its name alone: a path says more about a machine than about a model.
        "init_from": None if initial is None else Path(initial).name,
    }


def metrics_of(config: Config, results: Mapping[str, SourceResult]) -> dict[str, Any]:
    """The key `metrics` of `config.json`, but for the step that the engine knows."""
    splits = sorted({result.split for result in results.values()})
    return {
        "protocol": config.evaluation.protocol,
        "split": ", ".join(splits),
        "views": {"temporal": config.evaluation.temporal_views, "spatial": config.evaluation.spatial_views},
        "sources": {name: source_scores(result) for name, result in results.items()},
    }


def source_scores(result: SourceResult) -> dict[str, Any]:
    """Scores of one head; a number that is not finite is left unknown."""
    uar, war = (value if math.isfinite(value) else None for value in (result.scores.uar, result.scores.war))
    return {"uar": uar, "war": war, "samples": len(result.sample_ids), "unreadable": result.unreadable}
