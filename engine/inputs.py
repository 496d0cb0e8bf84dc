"""What a micro batch is computed from: its tensors, and its form, which is everything else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from engine.first_bad import tensors_in

# Names of samples are for messages, see `engine.protocols.Batch`: nothing is computed from them.
NAMES = "sample_ids"


def form_of(value: Any) -> Hashable:
    """Equal for nested records that differ in the values of tensors and the names of samples alone.

    Whatever else a record holds is part of its form, so that a new field need not be known here. TypeError for what
    cannot be compared.
    """
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), value.device, value.requires_grad
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.name != NAMES]
        return type(value), tuple(form_of(getattr(value, name)) for name in names)
    if isinstance(value, Mapping):
        # In its order, in which sums are taken.
        return type(value), tuple((key, form_of(part)) for key, part in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(form_of(part) for part in value)
    hash(value)
    return type(value), value


def held(value: Any) -> Any:
    """The same nested records around copies of their tensors."""
    return _rebuilt(value, lambda tensor: tensor.detach().clone())


@torch.no_grad()
def fill(target: Any, source: Any) -> None:
    """Copy the tensors of `source` into those of `target`, which has its form."""
    pairs = zip(tensors_in(target), tensors_in(source), strict=True)
    targets, sources = zip(*((mine, theirs) for (_, mine), (_, theirs) in pairs), strict=True)
    torch._foreach_copy_(targets, sources)


def _rebuilt(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: _rebuilt(getattr(value, field.name), function) for field in dataclasses.fields(value)}
        return type(value)(**parts)
    if isinstance(value, Mapping):
        return {key: _rebuilt(part, function) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_rebuilt(part, function) for part in value))
    if isinstance(value, list | tuple):
        return type(value)(_rebuilt(part, function) for part in value)
    return value
