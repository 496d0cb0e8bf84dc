"""A batch as named tensors and JSON, and back: for steps that are kept to be computed again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kernels.patch import Erase, Mix
from s4d.data.batch import HeadTargets, PackedBatch, PixelGroup
from s4d.errors import DataError

RECORDS: dict[str, type] = {record.__name__: record for record in (PackedBatch, PixelGroup, HeadTargets, Mix, Erase)}


def store_batch(batch: PackedBatch) -> tuple[dict[str, Tensor], Any]:
    """Every tensor under its dotted name, and the rest as JSON that says where they belong."""
    tensors: dict[str, Tensor] = {}
    return tensors, _stored(batch, "batch", tensors)


def restore_batch(tensors: Mapping[str, Tensor], record: Any) -> PackedBatch:
    """The batch that was stored; DataError if the two do not make one."""
    try:
        batch = _restored(record, tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"stored batch: not what a batch is stored as: {error}") from error
    if not isinstance(batch, PackedBatch):
        raise DataError(f"stored batch: expected a PackedBatch, got {type(batch).__name__}")
    return batch


def _stored(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, tuple):
        return {"tuple": [_stored(part, f"{name}.{index}", tensors) for index, part in enumerate(value)]}
    if dataclasses.is_dataclass(value):
        fields = {
            field.name: _stored(getattr(value, field.name), f"{name}.{field.name}", tensors)
            for field in dataclasses.fields(value)
        }
        return {"record": type(value).__name__, "fields": fields}
    return {"value": value}


def _restored(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "tuple" in value:
        return tuple(_restored(part, tensors) for part in value["tuple"])
    if "record" in value:
        return RECORDS[value["record"]](**{name: _restored(part, tensors) for name, part in value["fields"].items()})
    return value["value"]
