"""A checkpoint on disk: a folder of safetensors and JSON files whose manifest holds a checksum of every tensor.

Nothing is readable under its final name before it is complete: files are written and flushed in a folder aside, which
is renamed last. Readers trust only what the manifest confirms.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import CheckpointError

MANIFEST = "manifest.json"
ASIDE = ".tmp-"
FORMAT = 1


def flush(path: Path) -> None:
    """Force a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Replace a small file in one step."""
    aside = path.with_name(f"{ASIDE}{path.name}")
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(aside, path)
    flush(path.parent)


def discard(folder: Path) -> None:
    """Remove a folder so that a crash on the way leaves no half of it under its name."""
    aside = folder.with_name(f"{ASIDE}gone-{secrets.token_hex(4)}")
    folder.rename(aside)
    shutil.rmtree(aside)


def tensor_sum(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    data = tensor.detach().to("cpu").contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(data).hexdigest()  # type: ignore[arg-type]


def write_checkpoint(
    folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], records: Mapping[str, Mapping[str, Any]]
) -> None:
    """Publish `folder` with one safetensors file per entry of `tensors` and one JSON file per entry of `records`.

    CheckpointError names the path and the free space if the disk refuses; nothing half-written stays behind.
    """
    aside = folder.with_name(f"{ASIDE}{folder.name}-{secrets.token_hex(4)}")
    try:
        aside.mkdir(parents=True)
        files = {name: _write_tensors(aside / name, content) for name, content in tensors.items()}
        files |= {name: _write_record(aside / name, content) for name, content in records.items()}
        _write_record(aside / MANIFEST, {"format": FORMAT, "files": files})
        flush(aside)
        aside.rename(folder)
        flush(folder.parent)
    except (OSError, SafetensorError) as error:
        needed = sum(tensor.nbytes for content in tensors.values() for tensor in content.values())
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(f"{folder}: cannot write {needed} bytes ({_free(folder)} free): {error}") from error


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    save_file(dict(tensors), path)
    flush(path)
    entries = {
        name: {"dtype": str(tensor.dtype), "shape": list(tensor.shape), "sha256": tensor_sum(tensor)}
        for name, tensor in tensors.items()
    }
    return {"bytes": path.stat().st_size, "tensors": entries}


def _write_record(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    data = (json.dumps(content, indent=1) + "\n").encode()
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _free(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """Check every file against the manifest and return the manifest; CheckpointError names file and tensor."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = manifest["files"]
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{folder / MANIFEST}: unknown format {manifest['format']!r}")
        for name, entry in files.items():
            _verify_file(folder / name, entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: unreadable checkpoint: {error}") from error
    return manifest


def _verify_file(path: Path, entry: Mapping[str, Any]) -> None:
    if path.stat().st_size != entry["bytes"]:
        raise CheckpointError(f"{path}: expected {entry['bytes']} bytes, found {path.stat().st_size}")
    if "tensors" not in entry:
        if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            raise CheckpointError(f"{path}: checksum differs from the manifest")
        return
    with safe_open(path, framework="pt") as reader:
        if set(reader.keys()) != set(entry["tensors"]):
            raise CheckpointError(f"{path}: tensor names differ from the manifest")
        for name, known in entry["tensors"].items():
            tensor = reader.get_tensor(name)
            same = str(tensor.dtype) == known["dtype"] and list(tensor.shape) == known["shape"]
            if not same or tensor_sum(tensor) != known["sha256"]:
                raise CheckpointError(f"{path}: tensor {name!r}: checksum differs from the manifest")
