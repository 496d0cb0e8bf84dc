"""Blocks compiled for training: torch.compile fuses what lies between the matrix products and the ops of `kernels`.

Only training is compiled: its shapes are few, those of an evaluation are many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kernels.backends import Backend, Facts, resolve
from s4d.models.cross_decoder import CrossBlock
from s4d.models.vit import Block

Forward = Callable[..., Any]


def _compiled(forward: Forward) -> Forward:
    # A graph that breaks would hide how much is left to the host; only on a CPU, where experts read their rows on the
    # host, may it.
    return torch.compile(forward, fullgraph=torch.cuda.is_available(), dynamic=False)


def _plain(forward: Forward) -> Forward:
    return forward


def _compiled_refuses(facts: Facts) -> str | None:
    return "ZeRO 3 gathers weights in hooks, which end a graph" if facts["zero_stage"] == 3 else None


BACKENDS = {
    "compiled": Backend(name="compiled", function=_compiled, refuse=_compiled_refuses),
    "plain": Backend(name="plain", function=_plain),
}


def candidates(*, device: str, zero_stage: int) -> tuple[dict[str, Backend], dict[str, object]]:
    """Rows for such blocks in order of preference, and the facts that they may refuse."""
    # On a CPU the products take nearly all the time, and compiling takes a minute.
    table = BACKENDS if device == "cuda" else {name: BACKENDS[name] for name in ("plain", "compiled")}
    return table, {"device": device, "zero_stage": zero_stage}


class _TrainingForward:
    """Forward of one block: as chosen while it trains, as written while it is evaluated."""

    def __init__(self, block: Block | CrossBlock, requested: str | None, zero_stage: int) -> None:
        self._block = block
        self._plain: Forward = block.forward
        self._requested = requested
        self._zero_stage = zero_stage
        self._chosen: Forward | None = None

    def __call__(self, x: torch.Tensor, *rest: Any) -> Any:
        if not self._block.training:
            return self._plain(x, *rest)
        if self._chosen is None:
            table, facts = candidates(device=x.device.type, zero_stage=self._zero_stage)
            row = resolve("blocks", table, self._requested, **facts)
            self._chosen = row.load()(self._plain)
        return self._chosen(x, *rest)


def choose_forwards(model: nn.Module, requested: str | None, *, zero_stage: int) -> None:
    """Give every block of `model` the forward that `requested` names, or that is the best here; once, before training.

    The choice is made in the first training forward; BackendRefusedError there if a requested one cannot serve.
    """
    for module in model.modules():
        if isinstance(module, Block | CrossBlock):
            module.forward = _TrainingForward(module, requested, zero_stage)  # type: ignore[assignment, method-assign]
