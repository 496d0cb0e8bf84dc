"""The manifest of a checkpoint: every file with its size, every tensor with its checksum, and a checksum of itself.

It is read with suspicion: one byte changed anywhere, a file name that leads elsewhere, a key given twice or a value of
another type is an error, never a guess.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

MANIFEST = "manifest.json"
FORMAT = 2
MAX_BYTES = 64 << 20
CHECKSUM = re.compile(r"[0-9a-f]{64}")
# Type names as safetensors spells them, and bytes per element.
TYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def render_manifest(files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The only text that stands for these files."""
    content = {"format": FORMAT, "files": files}
    return render_json({**content, "sha256": hashlib.sha256(render_json(content)).hexdigest()})


def render_json(content: object) -> bytes:
    """Indented JSON."""
    return (json.dumps(content, indent=1) + "\n").encode()


def parse_manifest(data: bytes) -> dict[str, Any]:
    """The manifest in `data`: `{"format", "files": {name: entry}, "sha256"}`; ValueError says what is wrong with it.

    An entry holds `bytes` and either `sha256` or `header` (checksum of the safetensors header) and `tensors`:
    `{name: {"dtype", "shape", "sha256"}}`.
    """
    content = parse_json(data)
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, got {type(content).__name__}")
    if content.get("format") != FORMAT:
        raise ValueError(f"unknown format {content.get('format')!r}, this version reads {FORMAT}")
    _require_keys(content, {"format", "files", "sha256"}, "the manifest")
    if not isinstance(content["files"], dict):
        raise ValueError("field 'files' is not an object")
    for name, entry in content["files"].items():
        _check_entry(name, entry)
    if render_manifest(content["files"]) != data:
        raise ValueError("its own checksum differs: the manifest was changed after it was written")
    return content


def parse_json(data: bytes) -> Any:
    """The value in JSON text; ValueError for anything doubtful, such as a key given twice or NaN."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {MAX_BYTES} are read")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} is given twice")
        found[key] = value
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def is_whole(value: object) -> bool:
    """True for an integer of at least 0, which True and False are not."""
    return type(value) is int and value >= 0


def _require_keys(content: Mapping[str, Any], expected: set[str], where: str) -> None:
    if set(content) != expected:
        raise ValueError(f"{where} has the keys {sorted(content)}, expected {sorted(expected)}")


def _check_entry(name: str, entry: object) -> None:
    # One plain name: what is listed must lie in the checkpoint's own folder.
    if name in ("", ".", "..", MANIFEST) or any(mark in name for mark in "/\\\0"):
        raise ValueError(f"file name {name!r} is not a plain name")
    if not isinstance(entry, dict):
        raise ValueError(f"file {name!r}: expected an object, got {type(entry).__name__}")
    sums = ("header", "tensors") if "tensors" in entry else ("sha256",)
    _require_keys(entry, {"bytes", *sums}, f"file {name!r}")
    if not is_whole(entry["bytes"]) or not _is_checksum(entry[sums[0]]):
        raise ValueError(f"file {name!r}: bytes or checksum is malformed")
    if "tensors" not in entry:
        return
    if not isinstance(entry["tensors"], dict):
        raise ValueError(f"file {name!r}: field 'tensors' is not an object")
    for tensor, known in entry["tensors"].items():
        _check_tensor(f"file {name!r}: tensor {tensor!r}", known)
    size = sum(math.prod(known["shape"]) * TYPES[known["dtype"]] for known in entry["tensors"].values())
    if size > entry["bytes"]:
        raise ValueError(f"file {name!r}: its tensors need {size} bytes, it has {entry['bytes']}")


def _check_tensor(where: str, known: object) -> None:
    if not isinstance(known, dict):
        raise ValueError(f"{where}: expected an object, got {type(known).__name__}")
    _require_keys(known, {"dtype", "shape", "sha256"}, where)
    shape = known["shape"]
    if not isinstance(known["dtype"], str) or known["dtype"] not in TYPES or not _is_checksum(known["sha256"]):
        raise ValueError(f"{where}: dtype or checksum is malformed")
    if not isinstance(shape, list) or len(shape) > 16 or not all(is_whole(size) and size < 1 << 48 for size in shape):
        raise ValueError(f"{where}: shape {shape!r} is malformed")


def _is_checksum(value: object) -> bool:
    return isinstance(value, str) and CHECKSUM.fullmatch(value) is not None
