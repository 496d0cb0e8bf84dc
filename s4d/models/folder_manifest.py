"""What a model folder or a checkpoint says about its own files, and reading them with suspicion.

The manifest is the one that checkpoints of a run carry: every file with its size, every tensor with its checksum, and
a checksum of the manifest itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from s4d.errors import DataError

MANIFEST_FILE = "manifest.json"
FORMAT = 2
MAX_BYTES = 64 << 20
# What only a checkpoint of a run has, which always comes with a manifest.
OF_A_RUN = ("state.json", "optimizer.safetensors")


def read_small(path: Path) -> bytes:
    """Content of a regular file of at most 64 MiB; DataError for what is missing, longer or never ends."""
    try:
        # A pipe in the place of a file would keep us waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
                raise DataError(f"{path}: not a regular file of at most {MAX_BYTES} bytes")
            return stream.read()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def parse_object(path: Path, data: bytes) -> dict[str, Any]:
    """The object in JSON text; DataError names the file for anything doubtful, such as a key given twice or NaN."""
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise DataError(f"{path}: not readable as JSON: nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} is given twice")
        found[key] = value
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def render_manifest(files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The only text that stands for these files."""
    content = {"format": FORMAT, "files": files}
    return _text({**content, "sha256": hashlib.sha256(_text(content)).hexdigest()})


def _text(content: object) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def file_entry(data: bytes) -> dict[str, Any]:
    """Entry of a file that holds no tensors."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def tensor_file_entry(data: bytes) -> dict[str, Any]:
    """Entry of a safetensors file that was just made."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, known in header.items():
        begin, end = known["data_offsets"]
        digest = hashlib.sha256(data[start + begin : start + end]).hexdigest()
        tensors[name] = {"dtype": known["dtype"], "shape": known["shape"], "sha256": digest}
    return {"bytes": len(data), "header": hashlib.sha256(data[:start]).hexdigest(), "tensors": tensors}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Entries of the manifest by file; empty for a model folder without one. DataError where it was changed."""
    path = folder / MANIFEST_FILE
    if not os.path.lexists(path):
        if any(os.path.lexists(folder / name) for name in OF_A_RUN):
            raise DataError(f"{path}: no such file, and a checkpoint without it is not trusted")
        return {}
    data = read_small(path)
    files = parse_object(path, data).get("files")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise DataError(f"{path}: field 'files' is not an object of objects")
    if render_manifest(files) != data:
        raise DataError(f"{path}: damaged: its own checksum differs, or its format is not {FORMAT}")
    return files


def check_file(path: Path, data: bytes, entry: Mapping[str, Any] | None) -> None:
    """DataError where a manifest (no entry: without this file) knows other content."""
    if entry is None:
        raise DataError(f"{path}: not in {MANIFEST_FILE}")
    if entry != file_entry(data):
        raise DataError(f"{path}: damaged, its checksum differs from {MANIFEST_FILE}")


def check_tensor_file(path: Path, entry: Mapping[str, Any] | None) -> dict[str, str]:
    """Checksums of the tensors in a file whose size and header are those of its entry in the manifest."""
    if entry is None:
        raise DataError(f"{path}: not in {MANIFEST_FILE}")
    try:
        sums = {name: str(known["sha256"]) for name, known in entry["tensors"].items()}
        forms = {name: (known["dtype"], known["shape"]) for name, known in entry["tensors"].items()}
        expected = entry["header"]
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry["bytes"]:
            raise DataError(f"{path}: not the file of {entry['bytes']} bytes that {MANIFEST_FILE} names")
        with path.open("rb") as stream:
            start = stream.read(8)
            start += stream.read(min(int.from_bytes(start, "little"), MAX_BYTES))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path.with_name(MANIFEST_FILE)}: the entry of {path.name} is in no known form") from error
    if hashlib.sha256(start).hexdigest() != expected:
        raise DataError(f"{path}: damaged: its header's checksum differs from {MANIFEST_FILE}")
    # The same bytes are other numbers under another type.
    if (other := _forms(path, start[8:])) != forms:
        name = next(name for name in (*forms, *other) if forms.get(name) != other.get(name))
        raise DataError(f"{path}: tensor {name!r}: its type or shape differs from {MANIFEST_FILE}")
    return sums


def _forms(path: Path, header: bytes) -> dict[str, tuple[Any, Any]]:
    """Type and shape of each tensor by the header of its file."""
    tensors = parse_object(path, header)
    tensors.pop("__metadata__", None)
    try:
        return {name: (known["dtype"], known["shape"]) for name, known in tensors.items()}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: its header is in no known form") from error
