"""A checkpoint on disk: a folder of safetensors and JSON files whose manifest holds a checksum of every tensor.

Nothing is readable under its final name before it is complete: files are written and flushed in a folder aside, which
is renamed last. Readers trust only what the manifest confirms.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.checkpoint_manifest import (
    MANIFEST,
    MAX_BYTES,
    TYPES,
    parse_json,
    parse_manifest,
    render_json,
    render_manifest,
)
from engine.errors import CheckpointError, NonFiniteError, SaveError

ASIDE = ".tmp-"
# Of a step that is saved again with other content, until the new one has its name.
REPLACED = "-replaced"
STEP = re.compile(r"step-(\d{8,})")
STATE = "state.json"
# For people, who may change it.
CARD = "README.md"
# What file systems say that cannot give a file two names.
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
CHUNK_BYTES = 8 << 20
MAX_REASON = 300
TYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def flush(path: Path) -> None:
    """Force a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(path: Path) -> None:
    """Create a folder and the missing ones above it, their names on the disk too."""
    if not path.is_dir():
        make_folders(path.parent)
        path.mkdir(exist_ok=True)
        flush(path.parent)


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
    # Were a file's removal to reach the disk before the new name, half of the folder would be there under its old one.
    flush(folder.parent)
    shutil.rmtree(aside)


def sweep(folder: Path) -> None:
    """Remove what earlier saves left behind when they were cut off."""
    for stale in folder.glob(f"{ASIDE}*"):
        shutil.rmtree(stale) if stale.is_dir() and not stale.is_symlink() else stale.unlink()
    for old in folder.glob(f"step-*{REPLACED}"):
        new = old.with_name(old.name.removesuffix(REPLACED))
        if new.exists() and not any(damages(new)):
            discard(old)


def tensor_sum(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(_bytes_of(tensor)).hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().to("cpu").contiguous().view(-1).view(torch.uint8)
    return memoryview(flat.numpy())  # type: ignore[arg-type]


def write_checkpoint(
    folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], records: Mapping[str, Mapping[str, Any]]
) -> None:
    """Publish `folder` with one safetensors file per entry of `tensors` and one JSON file per entry of `records`.

    An intact folder of that name with the same content is kept, any other is replaced. SaveError names the path and
    the free space if the disk refuses, NonFiniteError a tensor with NaN or infinity; nothing half-written stays behind.
    """
    aside = folder.with_name(f"{ASIDE}{folder.name}-{secrets.token_hex(4)}")
    needed = sum(tensor.nbytes for content in tensors.values() for tensor in content.values())
    try:
        make_folders(folder.parent)
        aside.mkdir()
        files = {name: _write_tensors(aside / name, content, folder) for name, content in tensors.items()}
        files |= {name: _write_bytes(aside / name, render_json(content)) for name, content in records.items()}
        _write_bytes(aside / MANIFEST, render_manifest(files))
        flush(aside)
        _put_in_place(aside, folder)
    except OSError as error:
        refusal = refused(folder, error, needed)
        shutil.rmtree(aside, ignore_errors=True)
        raise refusal from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def replace_record(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    """Publish an intact `folder` again with another JSON file `name`; its other files stay the same where two names of
    one file are possible, else they are copied.

    SaveError as from `write_checkpoint`.
    """
    aside = folder.with_name(f"{ASIDE}{folder.name}-{secrets.token_hex(4)}")
    old = folder.with_name(folder.name + REPLACED)
    data = render_json(content)
    try:
        if old.exists() and not folder.exists():
            # An earlier attempt was cut off between its two renamings.
            old.rename(folder)
        files = dict(parse_manifest(read_plain(folder / MANIFEST, MAX_BYTES))["files"])
        aside.mkdir()
        for kept in sorted(files.keys() - {name}):
            _name_twice(folder / kept, aside / kept)
        files[name] = _write_bytes(aside / name, data)
        _write_bytes(aside / MANIFEST, render_manifest(files))
        flush(aside)
        _put_in_place(aside, folder)
    except OSError as error:
        refusal = refused(folder, error, len(data))
        shutil.rmtree(aside, ignore_errors=True)
        raise refusal from error


def _name_twice(path: Path, other: Path) -> None:
    """Give a file a second name, or copy it where the file system knows no such thing."""
    try:
        os.link(path, other)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(path, other)
        with other.open("rb") as stream:
            os.fsync(stream.fileno())


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return checkpoints / f"step-{step:08d}"


def _put_in_place(aside: Path, folder: Path) -> None:
    old = folder.with_name(folder.name + REPLACED)
    if folder.exists():
        known = (folder / MANIFEST).read_bytes() if (folder / MANIFEST).is_file() else b""
        if known == (aside / MANIFEST).read_bytes() and not any(damages(folder)):
            shutil.rmtree(aside)
            flush(folder.parent)
            return
        if old.exists():
            # Left by a crash and not swept: it is the intact one of the two.
            discard(folder)
        else:
            folder.rename(old)
    aside.rename(folder)
    flush(folder.parent)
    if old.exists():
        discard(old)


def refused(path: Path, error: OSError, needed: int) -> SaveError:
    """What to say when the disk does not take a checkpoint of `needed` bytes at `path`."""
    at = f" ({error.filename})" if error.filename else ""
    return SaveError(
        f"{path}: cannot write the checkpoint: {error.strerror or error}{at}; {needed} bytes needed, {_free(path)}"
    )


def _free(path: Path) -> str:
    try:
        while not path.exists() and path != path.parent:
            path = path.parent
        status = os.statvfs(path)
    except OSError as error:
        return f"free space unknown ({error.strerror})"
    # File systems that make inodes as they go state none at all.
    files = f" and {status.f_favail} files" if status.f_files else ""
    return f"{status.f_bavail * status.f_frsize} bytes{files} free"


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
    """A safetensors file whose bytes are hashed, and checked for NaN and infinity, as they pass.

    The library's own writer copies every tensor while it keeps all threads of the process waiting, and it does not pass
    on the reason when a disk is full.
    """
    # Wide types first, so that every tensor is aligned.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    kinds = {name: {"dtype": TYPE_NAMES[tensors[name].dtype], "shape": list(tensors[name].shape)} for name in order}
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        header[name] = {**kinds[name], "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = len(text).to_bytes(8, "little") + text
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _write_all(descriptor, memoryview(start))
        entries = {}
        for name in order:
            digest = hashlib.sha256()
            for chunk in _finite_chunks(tensors[name], f"{folder / path.name}: tensor {name!r}"):
                _write_all(descriptor, chunk)
                digest.update(chunk)
            entries[name] = {**kinds[name], "sha256": digest.hexdigest()}
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return {"bytes": len(start) + end, "header": hashlib.sha256(start).hexdigest(), "tensors": entries}


def _finite_chunks(tensor: Tensor, named: str) -> Iterator[memoryview]:
    data = _bytes_of(tensor)
    # numpy knows no bfloat16.
    kind = tensor.float() if tensor.dtype is torch.bfloat16 else tensor
    values = kind.detach().contiguous().view(-1).numpy() if tensor.is_floating_point() else None
    width = CHUNK_BYTES // tensor.element_size()
    for at in range(0, tensor.numel(), width):
        # Largest and smallest are NaN if any value is, and need no memory.
        if values is not None:
            part = values[at : at + width]
            if not (math.isfinite(np.max(part)) and math.isfinite(np.min(part))):
                raise NonFiniteError(f"{named} is not finite; the checkpoint is not published")
        yield data[at * tensor.element_size() : (at + width) * tensor.element_size()]


def _write_bytes(path: Path, data: bytes) -> dict[str, Any]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _write_all(descriptor, memoryview(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """Check every file against the manifest and return the manifest; CheckpointError names file and tensor."""
    for damage in damages(folder):
        raise CheckpointError(damage)
    return parse_manifest(read_plain(folder / MANIFEST, MAX_BYTES))


def damages(folder: Path) -> Iterator[str]:
    """Everything in which a checkpoint folder differs from what its manifest says; nothing for an intact one."""
    try:
        manifest = parse_manifest(read_plain(folder / MANIFEST, MAX_BYTES))
        present = set(os.listdir(folder))
    except (OSError, ValueError) as error:
        yield f"{folder / MANIFEST}: unreadable: {_reason(error)}"
        return
    for name in sorted(present - {MANIFEST, CARD} - set(manifest["files"])):
        yield f"{folder / name}: not in the manifest"
    for name, entry in manifest["files"].items():
        try:
            yield from _damages_of(folder / name, entry)
        except (OSError, ValueError, SafetensorError, OverflowError, MemoryError) as error:
            yield f"{folder / name}: unreadable: {_reason(error)}"
    named = STEP.fullmatch(folder.name.removesuffix(REPLACED))
    if named and STATE in present & set(manifest["files"]):
        yield from _another_step(folder, int(named[1]))


def _reason(error: BaseException) -> str:
    text = str(error.strerror) if isinstance(error, OSError) and error.strerror else str(error)
    # Libraries may quote all of what they could not read.
    return text[:MAX_REASON]


def _another_step(folder: Path, step: int) -> Iterator[str]:
    try:
        found = parse_json(read_plain(folder / STATE, MAX_BYTES))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if found != step:
        yield f"{folder / STATE}: of step {found}, the folder is named after step {step}"


def read_plain(path: Path, limit: int) -> bytes:
    """Content of a regular file of at most `limit` bytes; ValueError for anything else, some of which never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise ValueError(f"not a regular file of at most {limit} bytes")
        return stream.read()


def _damages_of(path: Path, entry: Mapping[str, Any]) -> Iterator[str]:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        yield f"{path}: not a regular file"
    elif status.st_size != entry["bytes"]:
        yield f"{path}: expected {entry['bytes']} bytes, found {status.st_size}{_first_cut(entry, status.st_size)}"
    elif "tensors" not in entry:
        if hashlib.sha256(read_plain(path, entry["bytes"])).hexdigest() != entry["sha256"]:
            yield f"{path}: checksum differs from the manifest"
    else:
        yield from _damaged_tensors(path, entry)


def _first_cut(entry: Mapping[str, Any], size: int) -> str:
    """Which tensor of a file that became shorter is the first to suffer; they are listed in the order of the file."""
    tensors = entry.get("tensors", {})
    end = entry["bytes"] - _tensor_bytes(tensors)
    for name, known in tensors.items():
        end += _tensor_bytes({name: known})
        if end > size:
            return f", cut at tensor {name!r} or before"
    return ""


def _tensor_bytes(tensors: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(math.prod(known["shape"]) * TYPES[known["dtype"]] for known in tensors.values())


def _damaged_tensors(path: Path, entry: Mapping[str, Any]) -> Iterator[str]:
    size = _tensor_bytes(entry["tensors"])
    with path.open("rb") as stream:
        if hashlib.sha256(stream.read(entry["bytes"] - size)).hexdigest() != entry["header"]:
            yield f"{path}: header: checksum differs from the manifest"
            return
    with safe_open(path, framework="pt") as reader:
        if set(reader.keys()) != set(entry["tensors"]):
            yield f"{path}: tensor names differ from the manifest"
            return
        for name, known in entry["tensors"].items():
            part = reader.get_slice(name)
            if part.get_dtype() != known["dtype"] or list(part.get_shape()) != known["shape"]:
                yield f"{path}: tensor {name!r}: type or shape differs from the manifest"
            elif tensor_sum(reader.get_tensor(name)) != known["sha256"]:
                yield f"{path}: tensor {name!r}: checksum differs from the manifest"
