"""What is trained: a task turns a batch into a loss, and a finished model into scores."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from s4d.config import Config
from s4d.errors import DataError, UsageError

if TYPE_CHECKING:
    from s4d.tasks.finetune import FinetuneTask
    from s4d.tasks.pretrain import PretrainTask

TASKS = {"pretrain": "s4d.tasks.pretrain:PretrainTask", "finetune": "s4d.tasks.finetune:FinetuneTask"}


def build_task(config: Config, *, rank: int, world_size: int, device: torch.device) -> PretrainTask | FinetuneTask:
    """The task of a run with its model on `device`; UsageError and DataError as their parts raise them."""
    from s4d.data.class_priors import class_priors
    from s4d.data.plan import build_plan
    from s4d.data.sources import head_classes
    from s4d.models.backends import check_backends
    from s4d.tasks.crop_provenance import crops_of, warn_of_other_crops
    from s4d.tasks.origins import origins_of

    check_backends(config.engine.backends)
    plan = build_plan(config, world_size=world_size)
    weights, classes = plan.loss_weights(), head_classes(config)
    if config.task == "finetune":
        _check_held_out(config)
    crops = crops_of(config)
    if config.model.init_from is not None and rank == 0:
        warn_of_other_crops(Path(config.model.init_from), crops)
    known: dict[str, Any] = {"crops": crops, "origins": origins_of(config, plan)}
    if config.loss.logit_adjustment > 0:
        known["class_priors"] = class_priors(plan.sources)
    task = _task_class(config)
    return task(config, weights, classes, rank=rank, world_size=world_size, device=device, **known)


def restore_task(config: Config, description: Any, *, device: torch.device) -> PretrainTask | FinetuneTask:
    """The task of one process from what `describe` said of it, without its data; DataError if something is missing."""
    try:
        weights, classes = description["loss_weights"], description["classes"]
        known = {"class_priors": description["class_priors"]} if config.loss.logit_adjustment > 0 else {}
        return _task_class(config)(config, weights, classes, rank=0, world_size=1, device=device, **known)
    except (KeyError, TypeError) as error:
        raise DataError(f"description of a task: {error!r} is missing or wrong") from error


def _task_class(config: Config) -> type[PretrainTask | FinetuneTask]:
    module, name = TASKS[config.task].split(":")
    task: type[PretrainTask | FinetuneTask] = getattr(importlib.import_module(module), name)
    return task


def _check_held_out(config: Config) -> None:
    """Meet what evaluation will need before hours of training, not after them."""
    from s4d.data.sources import load_sources

    load_sources(config, "test")
    if config.engine.eval_every is not None and config.evaluation.protocol != "release":
        try:
            load_sources(config, "val")
        except DataError as error:
            raise UsageError(f"engine.eval_every: nothing held out to score (see data.val_share): {error}") from error
