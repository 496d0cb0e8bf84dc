"""Rows of an op's own table as peers, and the row that the op picks by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from kernels.backends import Backend, chosen, pin
from kernels.bench.records import AbsentError, Peer, Run
from kernels.launch import is_interpreted

# Rows that wrap a library or a plain composition which a user could pick instead of our kernels.
RIVAL_BACKENDS = {
    "attention": {"sdpa", "xformers", "torch_varlen"},
    "moae": {"grouped", "dense_all"},
    "moae_plan": {"portable"},
    "patch": set[str](),
    "reconstruction": set[str](),
}
# The definition is for checking: it may be a loop over sequences.
_DEFINITION = "reference"


def backend_peers(
    op: str, table: Mapping[str, Backend], build: Callable[[Any, str], Run], *, names: Iterable[str] = ()
) -> Iterator[Peer]:
    """One peer per row of ``table`` (or of ``names``) but the definition; ``build`` takes inputs and the row's name."""
    for name in names or [name for name in table if name != _DEFINITION]:
        yield Peer(
            name=name,
            build=unless_interpreted(build, name),
            backend=name not in {"xformers", "torch_varlen"},
            rival=name in RIVAL_BACKENDS[op],
        )


def unless_interpreted(build: Callable[[Any, str], Run], name: str) -> Callable[[Any], Run]:
    """``build`` for the row ``name``, absent where it would be a Triton kernel run by Triton's interpreter."""

    def checked(inputs: Any) -> Run:
        if name.startswith("triton") and not torch.cuda.is_available() and is_triton_interpreted():
            raise AbsentError("Triton's interpreter is for tests: its times mean nothing")
        return build(inputs, name)

    return checked


def is_triton_interpreted() -> bool:
    """Whether Triton is here and interprets its kernels."""
    try:
        return is_interpreted()
    except ImportError:
        return False


def automatic(op: str, call: Callable[[], object]) -> str | None:
    """The backend that ``call`` of ``op``, naming none, was served by; None where nothing was chosen."""
    pin({})
    with torch.no_grad():
        call()
    return next((name for key, name in chosen().items() if key.startswith(f"{op}(")), None)
