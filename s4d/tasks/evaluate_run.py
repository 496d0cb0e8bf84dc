"""Scores a finished run again: which of its weights, on which split, by which test protocol."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s4d.atomic_files import write_atomically
from s4d.config import Config, load
from s4d.data.sources import EmptySplitError, head_classes, load_sources
from s4d.errors import DataError, UsageError
from s4d.json_text import to_json
from s4d.models.backends import check_backends
from s4d.models.folder import AVERAGE_FILE, MODEL_FILE, find_model, read_config, read_tensors
from s4d.models.sizes import architecture
from s4d.tasks import restore_task
from s4d.tasks.crop_provenance import crops_of, warn_of_changed_crops
from s4d.tasks.dynamics import OrderEffect, clip_dynamics
from s4d.tasks.evaluate import Evaluator, SourceResult
from s4d.tasks.evaluation_files import evaluation_document, write_evaluation

logger = logging.getLogger(__name__)

# What a protocol fixes of the test views; `held-out` takes the run's own. The released code resizes to a square, takes
# the first and the last window of a list of frames ordered by their names' characters, and two crops that are equal.
PROTOCOLS: dict[str, tuple[str, ...]] = {
    "held-out": (),
    "release": (
        "evaluation.temporal_views=2",
        "evaluation.spatial_views=2",
        "data.frame_sampling=release",
        "data.order=lexicographic",
        "data.image.resize=square",
        "data.video.resize=square",
    ),
}
WEIGHTS = {"last": MODEL_FILE, "ema": AVERAGE_FILE}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to score: `pointer` None lets the protocol choose, `overrides` are `section.key=value` of the run's file."""

    split: str = "test"
    weights: str = "last"
    pointer: str | None = None
    protocol: str = "held-out"
    overrides: tuple[str, ...] = ()
    dynamics: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RunScores:
    """Results of a run by source; `chosen` says how its `checkpoint` was selected, `dynamics` has clip heads alone."""

    run: Path
    request: Request
    config: Config
    checkpoint: Path
    chosen: str
    results: dict[str, SourceResult]
    dynamics: dict[str, tuple[OrderEffect, ...]]

    @property
    def summary(self) -> dict[str, float]:
        """`<source>.<score>` of the few numbers that training logs too."""
        return {f"{name}.{key}": value for name, item in self.results.items() for key, value in item.summary().items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: `evaluation.json` of a run, and how it came about."""
        document = evaluation_document(self.results)
        for name, effects in self.dynamics.items():
            document["sources"][name]["dynamics"] = {effect.frame_order: effect.to_dict() for effect in effects}
        views = {"temporal": self.config.evaluation.temporal_views, "spatial": self.config.evaluation.spatial_views}
        return {
            "run": str(self.run),
            "checkpoint": self.checkpoint.name,
            "chosen": self.chosen,
            "weights": self.request.weights,
            "protocol": self.request.protocol,
            "split": self.request.split,
            "views": views,
            "overrides": list(self.request.overrides),
            "scores": self.summary,
            **document,
        }

    def write(self, out: Path) -> None:
        """The files that training leaves in a run folder, in `out`."""
        experts = architecture(self.config.model, experts=self.config.mode == "moae").experts
        write_evaluation(self.results, experts, out)
        write_atomically(out / "evaluation.json", to_json(self.to_dict()))


def evaluate_run(run: Path, request: Request) -> RunScores:
    """Score a run as asked; UsageError for what cannot be asked of it, DataError for files that are not as they should.

    Runs in this process, on its GPU if it has one; nothing in the run folder changes.
    """
    own = load(run / "config.yaml", ["model.init_from=null"])
    if own.task != "finetune":
        raise UsageError(f"{run}: a {own.task} run has no heads to score")
    if request.protocol == "release" and request.split != "test":
        raise UsageError(f"--split {request.split}: protocol release knows the test split alone")
    overrides = ["model.init_from=null", *PROTOCOLS[request.protocol], *request.overrides]
    config = load(run / "config.yaml", overrides)
    pointer, chosen = _choose(run, own, request)
    folder = find_model(run, pointer)
    warn_of_changed_crops(folder, crops_of(config))
    check_backends(config.engine.backends)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = restore_task(config, read_config(folder), device=device)
    _check_classes(run, config, read_config(folder).get("classes", {}))
    _load(task.module, folder, request.weights, run)
    try:
        load_sources(config, request.split)
    except EmptySplitError as error:
        share = f" (data.val_share is {config.data.val_share:g})" if request.split == "val" else ""
        raise UsageError(f"{run}: has no {request.split} split{share}: {error}") from error
    evaluator = Evaluator(config, rank=0, world_size=1, device=device)
    baseline = config.evaluation.frame_baseline
    results = evaluator.evaluate(task.module, request.split, frame_baseline=baseline)
    clips = [result for result in results.values() if request.dynamics and result.modality == "video"]
    if request.dynamics and not clips:
        raise UsageError(f"{run}: --dynamics needs a source of clips, the run has images alone")
    return RunScores(
        run=run,
        request=request,
        config=config,
        checkpoint=folder,
        chosen=chosen,
        results=results,
        dynamics={kept.source: clip_dynamics(evaluator, task.module, kept) for kept in clips},
    )


def _choose(run: Path, own: Config, request: Request) -> tuple[str, str]:
    """Pointer to the checkpoint, and in words how that one was selected; a selection on test data is never silent."""
    selected_on = "test" if own.evaluation.protocol == "release" else "val"
    best = f"best {own.engine.keep_best} on the {selected_on} split"
    release = request.protocol == "release"
    pointer = request.pointer
    if pointer is None:
        pointer = "best" if release and (run / "checkpoints" / "best").is_file() else "latest"
    if pointer == "latest":
        if release:
            logger.warning("%s: protocol release selects on the test split; the newest checkpoint is scored", run)
        return pointer, "the newest"
    if selected_on == "test" and not release:
        raise UsageError(f"{run}: --pointer best: was selected on the test split, which --protocol release alone does")
    if selected_on == "val" and release:
        logger.warning("%s: protocol release selects on the test split; this run's best is that of its val split", run)
    return pointer, best


def _check_classes(run: Path, config: Config, heads: Any) -> None:
    """A head's numbers mean the names it was trained with, whatever the manifest of the data to score says."""
    for index, (name, names) in enumerate(head_classes(config).items()):
        trained: Sequence[str] = heads.get(name, ())
        if tuple(trained) != names:
            raise UsageError(
                f"{run}: data.sources.{index}.classes: source {name} has {', '.join(names)}; "
                f"its head was trained on {', '.join(trained) or 'nothing'}"
            )


def _load(module: nn.Module, folder: Path, weights: str, run: Path) -> None:
    name = WEIGHTS[weights]
    if weights == "ema" and not (folder / name).is_file():
        raise UsageError(f"{folder}: has no {name}: the run keeps no average (optim.ema)")
    try:
        module.load_state_dict(read_tensors(folder, name))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise DataError(f"{folder / name}: does not fit {run / 'config.yaml'}: {reason}") from error
