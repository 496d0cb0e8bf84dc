"""The choice of one backend of an op: explicit argument > environment > pinned > first usable row, with reasons.

An op owns a table ``{name: Backend}`` in its order of preference and calls ``resolve`` with the few facts a choice
may depend on. Facts are classes, not counts: bucket a token count before passing it, since every distinct set of facts
is one remembered choice that a run stores and replays.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

logger = logging.getLogger(__name__)

Facts = Mapping[str, Any]


class BackendRefusedError(ValueError):
    """A backend named by the caller that does not exist or cannot serve the call; entry points print it as one line."""

    exit_code = 2


def accept(facts: Facts) -> str | None:
    """Refuse nothing."""
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """One row of an op's table: name, function (or its path ``module:attribute``), and the reason it may refuse."""

    name: str
    function: Callable[..., Any] | str
    refuse: Callable[[Facts], str | None] = accept

    def __post_init__(self) -> None:
        if isinstance(self.function, str) and self.function.count(":") != 1:
            raise ValueError(f"backend {self.name!r}: expected a path 'module:attribute', got {self.function!r}")

    def load(self) -> Callable[..., Any]:
        """Return the function, imported now if it was given as a path."""
        if not isinstance(self.function, str):
            return self.function
        _import_function(self.function)
        return _loaded[self.function]


@torch.compiler.assume_constant_result
def _import_function(path: str) -> None:
    # The decorator runs the import at trace time; tracing itself cannot enter importlib.
    if path not in _loaded:
        module, attribute = path.split(":")
        _loaded[path] = getattr(importlib.import_module(module), attribute)


_loaded: dict[str, Callable[..., Any]] = {}
_resolved: dict[tuple[object, ...], Backend] = {}
_chosen: dict[str, str] = {}
_pinned: dict[str, str] = {}
_logged: set[str] = set()


def environment_variable(op: str) -> str:
    """Name of the environment variable that picks the backend of ``op``."""
    return f"S4D_{op.upper()}_BACKEND"


def resolve(op: str, table: Mapping[str, Backend], requested: str | None, **facts: object) -> Backend:
    """Pick the row of ``table`` that serves a call described by ``facts`` (hashable values).

    A name given by argument or environment never falls back: an unknown or refusing one raises BackendRefusedError, and
    so does a pinned one. The order of ``table`` may depend on the facts.
    """
    wanted = requested or os.environ.get(environment_variable(op)) or None
    key = (op, wanted, tuple(facts.items()))
    backend = _resolved.get(key)
    if backend is None:
        backend = _explicit(op, table, wanted, facts) if wanted else _automatic(op, table, facts)
        _resolved[key] = backend
    return backend


def _explicit(op: str, table: Mapping[str, Backend], name: str, facts: dict[str, object]) -> Backend:
    if name not in table:
        raise BackendRefusedError(f"{op}: unknown backend {name!r}; expected one of {', '.join(table)}")
    reason = table[name].refuse(facts)
    if reason is not None:
        raise BackendRefusedError(
            f"{op}: backend {name!r} cannot serve this call: {reason}; backends are {', '.join(table)}"
        )
    return table[name]


def _automatic(op: str, table: Mapping[str, Backend], facts: dict[str, object]) -> Backend:
    choice_key = f"{op}({', '.join(f'{name}={value}' for name, value in facts.items())})"
    if choice_key in _pinned:
        row = _explicit(op, table, _pinned[choice_key], facts)
        reasons = [f"pinned as {choice_key}"]
    else:
        row, reasons = _first_usable(op, table, facts)
        _chosen[choice_key] = row.name
    _log_once(f"{choice_key}: backend {row.name}" + (f" ({'; '.join(reasons)})" if reasons else ""))
    return row


@torch.compiler.assume_constant_result
def _log_once(message: str) -> None:
    # The decorator lets a traced call log too, at trace time, without breaking the graph.
    if message not in _logged:
        _logged.add(message)
        logger.info("%s", message)


def _first_usable(op: str, table: Mapping[str, Backend], facts: dict[str, object]) -> tuple[Backend, list[str]]:
    reasons: list[str] = []
    for row in table.values():
        reason = row.refuse(facts)
        if reason is None:
            return row, reasons
        reasons.append(f"{row.name}: {reason}")
    raise ValueError(f"{op}: no backend can serve this call: {'; '.join(reasons)}")


def chosen() -> dict[str, str]:
    """Automatic choices in force, pinned ones included: description of the call -> backend name."""
    return {**_pinned, **_chosen}


def pin(choices: Mapping[str, str]) -> None:
    """Replay stored automatic choices, replacing earlier pins and forgetting the choices made so far."""
    _pinned.clear()
    _pinned.update(choices)
    _chosen.clear()
    _resolved.clear()
