"""The header of a safetensors file, read with suspicion before anything is allocated for its tensors.

The file is its header's length (8 bytes), the header (JSON) and the tensors' bytes, each byte of which belongs to one
tensor. The library that reads tensors checks most of that; it takes the last of two tensors of one name in silence.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4d.errors import DataError
from s4d.models.folder_manifest import MAX_BYTES, parse_object

# Type names as safetensors spells them, and bits per element.
BITS = {
    **{"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32},
    **{"U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8},
}
# What weights may be stored in; every one of their values is a float32 too.
WEIGHT_TYPES = ("F32", "F16", "BF16")
MAX_DIMS = 16
KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorForm:
    """Type, shape and place of one tensor behind the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, TensorForm]:
    """Forms of all tensors by name; DataError unless they fill the file to its last byte and none lies over another."""
    try:
        # A pipe in the place of a file would keep us waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _refused(path, "not a regular file")
            length = int.from_bytes(stream.read(8), "little")
            if status.st_size < 8 or length > min(status.st_size - 8, MAX_BYTES):
                raise _refused(path, f"a header of {length} bytes in a file of {status.st_size}")
            text = stream.read(length)
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error
    header = parse_object(path, text)
    header.pop("__metadata__", None)
    forms = {name: _form(path, name, entry) for name, entry in header.items()}
    _check_places(path, forms, status.st_size - 8 - length)
    return forms


def refuse_types(path: Path, forms: dict[str, TensorForm], allowed: Collection[str] = WEIGHT_TYPES) -> None:
    """DataError for the first tensor that is not stored in a type of weights."""
    for name, form in forms.items():
        if form.dtype not in allowed:
            raise DataError(f"{path}: tensor {name!r}: expected type {', '.join(allowed)}, got {form.dtype}")


def _form(path: Path, name: str, entry: Any) -> TensorForm:
    if not isinstance(entry, dict) or set(entry) != KEYS:
        raise _refused(path, f"tensor {name!r:.200}: expected dtype, shape and data_offsets")
    dtype, shape, places = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _refused(path, f"tensor {name!r:.200}: type {dtype!r:.40} is not read")
    if not _are_whole(shape) or len(shape) > MAX_DIMS or not _are_whole(places) or len(places) != 2:
        raise _refused(path, f"tensor {name!r:.200}: shape or data_offsets is malformed")
    begin, end = places
    if math.prod(shape) * BITS[dtype] != (end - begin) * 8:
        raise _refused(path, f"tensor {name!r:.200}: {end - begin} bytes are no {dtype} of shape {tuple(shape)}")
    return TensorForm(dtype=dtype, shape=tuple(shape), begin=begin, end=end)


def _check_places(path: Path, forms: dict[str, TensorForm], size: int) -> None:
    at = 0
    for name, form in sorted(forms.items(), key=lambda item: (item[1].begin, item[1].end)):
        if form.begin != at:
            problem = "lies over another" if form.begin < at else "leaves bytes before it that belong to none"
            raise _refused(path, f"tensor {name!r:.200}: {problem}")
        at = form.end
    if at != size:
        raise _refused(path, f"its tensors need {at} bytes, {size} are there")


def _are_whole(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _refused(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: not a readable safetensors file: {reason}")
