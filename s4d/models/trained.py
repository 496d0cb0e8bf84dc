"""A fine-tuned classifier read back from disk, with the names of its classes and what each head was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from s4d.data.batch import MODALITIES
from s4d.errors import DataError
from s4d.models.build import build_finetune
from s4d.models.classifier import FinetuneModel
from s4d.models.exported import is_exported, open_exported
from s4d.models.fit import refuse_misfit, shapes_of
from s4d.models.folder import CONFIG_FILE, find_model, read_architecture, read_config, read_tensors
from s4d.models.sizes import Architecture

RUN_CONFIG = "config.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedModel:
    """A classifier in evaluation mode, in float32 on its device.

    `classes` has the class names of each head in head order, `modalities` says whether a head was trained on images or
    on videos, `described` is the folder's `config.json` as it stands. `run_config` is the configuration of the run that
    the folder belongs to; None for a model folder that lies alone.
    """

    folder: Path
    module: FinetuneModel
    arch: Architecture
    classes: dict[str, tuple[str, ...]]
    modalities: dict[str, str]
    described: dict[str, Any]
    run_config: Path | None


def load_trained(path: Path, *, device: torch.device | str, pointer: str = "latest") -> TrainedModel:
    """The classifier behind a run folder, a checkpoint, a model folder or its `model.safetensors`.

    Of a run `pointer` names the checkpoint, `latest` or `best`. DataError names the file and the field: no such folder,
    no fine-tuned model, damaged weights, class names or modalities that are not stated.
    """
    folder = find_model(path, pointer)
    described, tensors = open_exported(folder) if is_exported(folder) else (read_config(folder), None)
    if described.get("stage") != "finetune":
        raise DataError(f"{folder / CONFIG_FILE}: field 'stage': expected 'finetune', got {described.get('stage')!r}")
    arch = read_architecture(folder, described)
    classes = {head: tuple(names) for head, names in (described.get("classes") or {}).items()}
    if not classes or not all(classes.values()):
        raise DataError(f"{folder / CONFIG_FILE}: field 'classes': expected the class names of at least one head")
    run_config = find_run_config(folder)
    modalities = modalities_of(folder, classes, described, run_config)
    tensors = read_tensors(folder) if tensors is None else tensors
    refuse_misfit(folder, described, shapes_of(tensors))
    module = build_finetune(arch, {name: len(names) for name, names in classes.items()}, seed=0)
    module.load_state_dict(tensors)
    return TrainedModel(
        folder=folder,
        module=module.to(device).eval(),
        arch=arch,
        classes=classes,
        modalities=modalities,
        described=described,
        run_config=run_config,
    )


def find_run_config(folder: Path) -> Path | None:
    """Configuration of the run whose checkpoint `folder` is; None where it belongs to no run."""
    for place in (folder, folder.parent.parent) if folder.parent.name == "checkpoints" else (folder,):
        if (place / RUN_CONFIG).is_file():
            return place / RUN_CONFIG
    return None


def modalities_of(
    folder: Path, classes: Mapping[str, tuple[str, ...]], described: Mapping[str, Any], run_config: Path | None
) -> dict[str, str]:
    """Modality of each head, from the folder itself or, where it was written before it said so, from its run."""
    found: dict[str, Any] = {}
    where = f"{folder / CONFIG_FILE}: field 'inputs'"
    inputs = described.get("inputs")
    if isinstance(inputs, dict):
        found = {name: entry.get("modality") for name, entry in inputs.items() if isinstance(entry, dict)}
    elif run_config is not None:
        from s4d.config import load

        found = {source.name: source.modality for source in load(run_config, ["model.init_from=null"]).data.sources}
        where = f"{run_config}: field 'data.sources'"
    for name in classes:
        if found.get(name) not in MODALITIES:
            raise DataError(f"{where}: does not say whether head {name!r} takes images or videos")
    return {name: found[name] for name in classes}
