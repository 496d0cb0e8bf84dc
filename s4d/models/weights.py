"""Initial weights of a model from an earlier run, a checkpoint or imported weights, with every tensor accounted for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from s4d.errors import DataError
from s4d.models.classifier import FinetuneModel
from s4d.models.fit import refuse_misfit, shapes_of
from s4d.models.folder import CONFIG_FILE, MODEL_FILE, find_model, read_config, read_tensors
from s4d.models.keys import KeyReport
from s4d.models.mae import PretrainModel

logger = logging.getLogger(__name__)

PRETRAINING_ONLY = ("decoder.", "encoder_to_decoder.", "mask_token")


def load_initial(
    model: PretrainModel | FinetuneModel,
    path: Path,
    *,
    classes: Mapping[str, tuple[str, ...]] | None = None,
    init_final_norm: bool = False,
) -> KeyReport:
    """Copy weights into `model` in place and report where every tensor went.

    A classifier takes a pre-trained encoder (its final norm becomes fc_norm only with `init_final_norm`), or a
    classifier; a pre-training model also takes an encoder alone, and its decoder starts anew. Heads are taken by name
    where the class names agree with `classes`. A tensor of another shape, or an encoder tensor that is not in the file,
    is a DataError.
    """
    folder = find_model(path)
    file = folder / MODEL_FILE
    described = read_config(folder) if (folder / CONFIG_FILE).is_file() else {}
    source = read_tensors(folder)
    refuse_misfit(folder, described, shapes_of(source))
    known_classes = stored_classes(folder)
    alone = described.get("stage") == "encoder"
    targets = dict(model.named_parameters())
    mapped: dict[str, str] = {}
    unused: dict[str, str] = {}
    other_classes: set[str] = set()
    for name in source:
        wanted, reason = _target(name, model, init_final_norm)
        head = wanted.split(".")[1] if wanted.startswith("head.") else None
        if head is not None and classes is not None and head in known_classes and head in classes:
            reason = "" if known_classes[head] == tuple(classes[head]) else "another list of classes"
            other_classes.update({wanted} if reason else set())
        if reason or wanted not in targets:
            if not reason and not _may_start_anew(wanted, model, alone):
                raise DataError(f"{file}: tensor {name!r} has no place in this model: a checkpoint of another size")
            unused[name] = reason or "not in this model"
        else:
            mapped[name] = wanted
    for name, wanted in mapped.items():
        _check_shape(file, name, source[name], targets[wanted])
    absent = sorted(set(targets) - set(mapped.values()))
    missing = {name: "another list of classes" if name in other_classes else "starts anew" for name in absent}
    required = [name for name in absent if not _may_start_anew(name, model, alone)]
    if required:
        raise DataError(
            f"{file}: lacks tensor {required[0]!r} and {len(required) - 1} others that this model needs: "
            "a checkpoint of another size or kind"
        )
    with torch.no_grad():
        for name, wanted in mapped.items():
            targets[wanted].copy_(source[name])
    report = KeyReport(source=str(file), mapped=mapped, unused=unused, missing=missing)
    logger.info("%s", report.summary())
    return report


def _target(name: str, model: nn.Module, init_final_norm: bool) -> tuple[str, str]:
    """Name in `model` of a tensor of the file, and the reason not to take it (empty: take it)."""
    if isinstance(model, PretrainModel):
        return name, ""
    if name.startswith(PRETRAINING_ONLY):
        return name, "pre-training only"
    if name.startswith("encoder.norm."):
        wanted = name.replace("encoder.norm.", "fc_norm.")
        return wanted, "" if init_final_norm else "the classifier's norm starts anew"
    return name.removeprefix("encoder."), ""


def _may_start_anew(name: str, model: nn.Module, encoder_alone: bool) -> bool:
    if isinstance(model, PretrainModel):
        return encoder_alone and name.startswith((*PRETRAINING_ONLY, "encoder.norm."))
    return isinstance(model, FinetuneModel) and (name.startswith(("head.", "fc_norm.")) or ".moae." in name)


def stored_classes(folder: Path) -> dict[str, tuple[str, ...]]:
    """Class names of each head as the folder's `config.json` has them, empty if it has none; DataError if malformed."""
    if not (folder / CONFIG_FILE).is_file():
        return {}
    classes = read_config(folder).get("classes") or {}
    lists = classes.values() if isinstance(classes, dict) else [None]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise DataError(f"{folder / CONFIG_FILE}: field 'classes': expected lists of names by head")
    return {head: tuple(names) for head, names in classes.items()}


def _check_shape(file: Path, name: str, stored: Tensor, wanted: Tensor) -> None:
    if stored.shape != wanted.shape:
        raise DataError(
            f"{file}: tensor {name!r} has shape {tuple(stored.shape)}, this model needs {tuple(wanted.shape)}: "
            "a checkpoint of another size"
        )
