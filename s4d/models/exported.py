"""A folder that was exported for transformers, read back as the model it was.

Its `config.json` is that of transformers and has, under `s4d`, what the model folder said of the same weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from s4d.errors import DataError
from s4d.models.description import check_description
from s4d.models.folder import (
    CONFIG_FILE,
    MODEL_FILE,
    read_architecture,
    read_object,
    read_tensor_file,
    refuse_not_finite,
)
from s4d.models.tensor_header import read_header, refuse_types

KEY = "s4d"
# What transformers' fields and ours both state, and no tensor need show.
STATED_TWICE = ("depth", "num_heads", "image_size", "num_frames")


def is_exported(folder: Path) -> bool:
    """Whether this is a folder of transformers that came from here."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return False
    config = read_object(path)
    return "model_type" in config and KEY in config


def open_exported(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors under our names; DataError names the file and what is wrong with it."""
    from s4d.models.foreign.forms import hf_videomae
    from s4d.models.foreign.forms.ledger import Wishes

    path, file = folder / CONFIG_FILE, folder / MODEL_FILE
    config = read_object(path)
    described = config[KEY]
    if not isinstance(described, dict):
        raise DataError(f"{path}: field {KEY!r}: expected an object, got {type(described).__name__}")
    check_description(path, described)
    refuse_types(file, read_header(file))
    tensors = read_tensor_file(file)
    refuse_not_finite(file, tensors)
    classes = {head: tuple(names) for head, names in described.get("classes", {}).items()}
    try:
        ledger = hf_videomae.convert(tensors, config, Wishes(classes=classes))
        for name in ledger.rest:
            raise ValueError(f"tensor {name!r}: not known")
    except ValueError as error:
        raise DataError(f"{folder}: {error}") from error
    assert ledger.arch is not None
    stated = read_architecture(folder, described)
    for name in STATED_TWICE:
        mine, theirs = getattr(stated, name), getattr(ledger.arch, name)
        if mine != theirs:
            raise DataError(f"{path}: field '{KEY}.architecture.{name}': {mine!r}, transformers' fields say {theirs!r}")
    return described, dict(ledger.tensors)
