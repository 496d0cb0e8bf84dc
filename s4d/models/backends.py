"""Backends asked for by name in a configuration."""

from __future__ import annotations

from collections.abc import Mapping

from kernels import attention, moae, patch, reconstruction
from kernels.backends import Backend
from s4d.errors import UsageError
from s4d.models import compiled

OPS: dict[str, Mapping[str, Backend]] = {
    "attention": attention.BACKENDS,
    "moae": moae.BACKENDS,
    "patch": patch.BACKENDS,
    "reconstruction": reconstruction.BACKENDS,
    "blocks": compiled.BACKENDS,
}


def check_backends(choices: Mapping[str, str]) -> None:
    """UsageError for an op or a backend that does not exist; whether it serves the model shows in the first step."""
    for op, name in choices.items():
        if op not in OPS:
            raise UsageError(f"engine.backends: unknown op {op!r}; expected one of {', '.join(OPS)}")
        if name not in OPS[op]:
            raise UsageError(f"engine.backends.{op}: unknown backend {name!r}; expected one of {', '.join(OPS[op])}")
