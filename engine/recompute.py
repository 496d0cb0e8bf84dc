"""Less memory for more time: some layers' forwards are done again in the backward instead of kept for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Layer = TypeVar("Layer")


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The members of lists of modules, in order."""
    return [layer for part in module.modules() if isinstance(part, nn.ModuleList) for layer in part]


def spread_evenly(layers: Sequence[Layer], share: float) -> list[Layer]:
    """This share of the layers, rounded down: the next one whenever the share so far reaches a whole number."""
    return [layer for index, layer in enumerate(layers, 1) if int(index * share) > int((index - 1) * share)]


def recompute(layers: list[nn.Module]) -> None:
    """Have these layers keep nothing for the backward but what they are given.

    Their forwards must compute the same when called again: no draws but those that come with the arguments. To be
    called before anything else watches the layers, such as ZeRO's hooks.
    """
    for layer in layers:
        layer.forward = _Twice(layer.forward)


class _Twice:
    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward

    def __call__(self, *args: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args)
        return checkpoint(self._forward, *args, use_reentrant=False, preserve_rng_state=False)
