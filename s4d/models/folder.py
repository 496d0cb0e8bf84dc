"""Model folders: `model.safetensors` with named tensors and `config.json` saying what they are."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from s4d.atomic_files import flush
from s4d.errors import DataError
from s4d.models.description import check_description
from s4d.models.folder_manifest import (
    MANIFEST_FILE,
    check_file,
    check_tensor_file,
    file_entry,
    parse_object,
    read_manifest,
    read_small,
    render_manifest,
    tensor_file_entry,
)
from s4d.models.sizes import Architecture
from s4d.models.tensor_header import read_header, refuse_types

logger = logging.getLogger(__name__)

MODEL_FILE = "model.safetensors"
AVERAGE_FILE = "ema.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
STATE_FILE = "state.json"
# A folder beside the file that names it.
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
# Of what a library says about a file, which may quote all of it.
MAX_REASON = 300


def find_model(path: Path, pointer: str = "latest") -> Path:
    """The folder with the weights behind a run folder, a checkpoint or an imported folder.

    Of a run it is the checkpoint that `pointer` names: `latest`, or `best` where one is kept. A path to a
    `model.safetensors` itself stands for its folder.
    """
    if path.name == MODEL_FILE and path.is_file():
        return path.parent
    if not path.exists():
        raise DataError(f"{path}: no such run, checkpoint or model folder")
    if (path / MODEL_FILE).is_file():
        return path
    named = path / "checkpoints" / pointer
    if named.is_file():
        name = read_small(named).decode(errors="replace").strip()
        folder = path / "checkpoints" / name
        if PLAIN_NAME.fullmatch(name) and (folder / MODEL_FILE).is_file():
            return folder
        raise DataError(f"{named}: names {name[:80]!r}, which is no folder beside it with a {MODEL_FILE}")
    raise DataError(f"{path}: holds neither {MODEL_FILE} nor checkpoints/{pointer}")


def read_config(folder: Path) -> dict[str, Any]:
    """Content of `config.json`; DataError if it is missing, malformed or not what the manifest knows."""
    path = folder / CONFIG_FILE
    data = read_small(path)
    if manifest := read_manifest(folder):
        check_file(path, data, manifest.get(CONFIG_FILE))
    values = parse_object(path, data)
    check_description(path, values)
    return values


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; DataError if it is missing or something else."""
    return parse_object(path, read_small(path))


def read_architecture(folder: Path, described: Mapping[str, Any] | None = None) -> Architecture:
    """The architecture stated in `config.json`, or in what was read of it already."""
    values = (read_config(folder) if described is None else described).get("architecture")
    try:
        if not isinstance(values, dict):
            raise TypeError(f"expected an object, got {type(values).__name__}")
        return Architecture.from_dict(values)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise DataError(f"{folder / CONFIG_FILE}: field 'architecture': {error}") from error


def read_tensors(folder: Path, name: str = MODEL_FILE) -> dict[str, Tensor]:
    """The weights in one of its files on the CPU; DataError where the folder's manifest knows other bytes.

    Weights are floating-point numbers, and finite: one NaN would make every answer NaN.
    """
    path = folder / name
    sums = read_checksums(folder, name)
    if not sums:
        logger.warning("%s: no %s, so that damage to its weights would not be noticed", folder, MANIFEST_FILE)
    refuse_types(path, read_header(path))
    tensors = read_tensor_file(path)
    for key, tensor in tensors.items() if sums else ():
        if sums.get(key) != _sha256(tensor):
            raise DataError(f"{path}: tensor {key!r}: damaged, its checksum differs from {MANIFEST_FILE}")
    if sums and len(sums) != len(tensors):
        raise DataError(f"{path}: tensor {sorted(sums.keys() - tensors.keys())[0]!r} of {MANIFEST_FILE} is not there")
    refuse_not_finite(path, tensors)
    return tensors


def read_checksums(folder: Path, name: str = MODEL_FILE) -> dict[str, str]:
    """SHA-256 of each tensor by the folder's manifest, whose header is the file's; empty without a manifest."""
    manifest = read_manifest(folder)
    return check_tensor_file(folder / name, manifest.get(name)) if manifest else {}


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()


def refuse_not_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """DataError for the first tensor with NaN or an infinity."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise DataError(f"{path}: tensor {name!r}: holds NaN or infinity")


def read_tensor_file(path: Path) -> dict[str, Tensor]:
    """All tensors of one safetensors file; DataError if it cannot be read whole."""
    read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable safetensors file: {str(error)[:MAX_REASON]}") from error


def write_folder(
    out: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, card: str | None = None
) -> None:
    """Write a new model folder, whole or not at all; DataError if `out` exists or cannot be written.

    `card` is the text of its README.md, which people change: no checksum is kept of it.
    """
    if out.exists():
        raise DataError(f"{out}: already exists")
    aside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        aside.mkdir(parents=True)
        model = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        described = (json.dumps(config, indent=2) + "\n").encode("utf-8")
        _write(aside / MODEL_FILE, model)
        _write(aside / CONFIG_FILE, described)
        if card is not None:
            _write(aside / CARD_FILE, card.encode("utf-8"))
        entries = {MODEL_FILE: tensor_file_entry(model), CONFIG_FILE: file_entry(described)}
        _write(aside / MANIFEST_FILE, render_manifest(entries))
        flush(aside)
        aside.rename(out)
        flush(out.parent)
    except OSError as error:
        raise DataError(f"{out}: cannot write: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
