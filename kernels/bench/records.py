"""What a benchmark is made of: ops, their cases, the peers that run them, and reasons for those that cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kernels.launch import Work

PHASES = ("forward", "backward", "both")
Floors = Mapping[str, tuple[Work, ...]]
# Dtypes of a case by device type; sweeps are for their curve, one dtype draws it.
HALF_ONLY: Mapping[str, tuple[torch.dtype, ...]] = {"cpu": (torch.bfloat16,), "cuda": (torch.bfloat16,)}
USUAL_DTYPES = {**HALF_ONLY, "cpu": (torch.bfloat16, torch.float32)}


class AbsentError(Exception):
    """A peer that cannot run here; the text is the reason shown in the results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One peer on its inputs, ready to be called again and again.

    ``forward`` gives the outputs, whose gradients towards ``leaves`` are taken with ``upstream``; without leaves there
    is no backward. ``results`` brings outputs and gradients into the names and shapes of the definition. ``around`` is
    in force during both.
    """

    forward: Callable[[], tuple[Tensor, ...]]
    leaves: tuple[Tensor, ...]
    upstream: tuple[Tensor, ...]
    results: Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], dict[str, Tensor]]
    around: Callable[[], AbstractContextManager[None]] = nullcontext

    def outputs(self) -> tuple[Tensor, ...]:
        """The outputs of one forward."""
        with self.around():
            return self.forward()

    def backward(self, outputs: tuple[Tensor, ...], *, keep: bool = False) -> tuple[Tensor, ...]:
        """Gradients of the leaves; ``keep`` leaves what was saved in place for another call."""
        with self.around():
            return torch.autograd.grad(outputs, self.leaves, self.upstream, retain_graph=keep)


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """One way to compute an op.

    ``build`` takes the inputs of a case and may raise AbsentError. ``backend`` marks the rows of our own table, which
    must be right for the run to succeed. ``rival`` marks what a user could pick instead of us: the best of these is
    what other rows are compared with. ``uncapturable`` is the reason why no CUDA graph can hold it.
    """

    name: str
    build: Callable[[Any], Run]
    backend: bool = False
    rival: bool = True
    uncapturable: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One workload: how to make its inputs on a device in a dtype, and its floors per phase in that dtype.

    ``defaults`` are the device types on which it runs without being asked for by name. ``axes`` places it in the plots.
    ``peers`` limits who runs it; everyone else is absent with ``peers_reason``.
    """

    name: str
    op: str
    inputs: Callable[[torch.device, torch.dtype], Any]
    floors: Callable[[torch.dtype], Floors]
    defaults: frozenset[str] = frozenset()
    axes: Mapping[str, int] = field(default_factory=dict)
    dtypes: Mapping[str, tuple[torch.dtype, ...]] = field(default_factory=lambda: USUAL_DTYPES)
    peers: frozenset[str] | None = None
    peers_reason: str = "not a rival in this case"


@dataclass(frozen=True, kw_only=True, slots=True)
class Op:
    """An op with its cases and peers.

    ``expected`` gives the results that every peer must reproduce: in float64 the definition, in a working dtype plain
    PyTorch. None where results are checked elsewhere. ``automatic`` names the backend that the op itself picks.
    ``reductions`` are the lengths of the longest sums behind each result of a case. ``tile_peers`` are further peers,
    run on request: one kernel in each of its tiles.
    """

    name: str
    cases: Mapping[str, Case]
    peers: Callable[[Case], Iterable[Peer]]
    expected: Callable[[Any, torch.dtype], dict[str, Tensor]] | None
    automatic: Callable[[Any], str | None]
    reductions: Callable[[Any], Mapping[str, int]] = lambda inputs: {}
    tile_peers: Callable[[Case], Iterable[Peer]] = lambda case: ()
