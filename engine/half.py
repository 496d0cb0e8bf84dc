"""bf16 without ZeRO: the forward computes with bf16 copies of the fp32 weights that AdamW updates.

DeepSpeed's own bf16 at stage 0 keeps two sets of weights and asks the host about every gradient. Here it has an fp32
model to look after: gradients are fp32 sums, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.hooks import RemovableHandle

from engine.recompute import layers_of


class HalfForward(nn.Module):
    """`module` computing in bf16: each forward rounds weights and floating-point buffers, which stay as they are.

    Layers are rounded one by one when their turn comes. Those of `recomputed` are done again as a whole. With `narrow`
    the gradients of their matrices stay in bf16, as the backward makes them, until there is something to add.
    """

    def __init__(self, module: nn.Module, recomputed: Sequence[nn.Module] = (), *, narrow: bool = False) -> None:
        super().__init__()
        self.module = module
        layers = layers_of(module)
        inside = {id(part) for layer in layers for part in layer.modules()}
        self._outside = _Places([part for part in module.modules() if id(part) not in inside])
        for layer in layers:
            layer.forward = _HalfLayer(layer, keeps=layer in recomputed, narrow=narrow)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What `module` returns for the same arguments."""
        with self._outside.rounded():
            return self.module(*args, **kwargs)


class _HalfLayer:
    """Forward of one layer with bf16 weights.

    On a CPU the backward makes weights and layer norms again that it needs, rather than have those of all layers kept
    for it. A GPU's memory goes to other things, and compiled layers keep what they find best.
    """

    def __init__(self, layer: nn.Module, *, keeps: bool, narrow: bool) -> None:
        self._forward = layer.forward
        self._keeps = keeps
        self._places = _Places(list(layer.modules()), narrow=narrow)
        self._norms = [part for part in layer.modules() if isinstance(part, nn.LayerNorm)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._places.rounded() as pairs:
            if self._keeps or not pairs or pairs[0][0].is_cuda:
                return self._forward(*args, **kwargs)
            with _MadeAgain(pairs, self._norms):
                return self._forward(*args, **kwargs)


Pairs = list[tuple[Tensor, Tensor]]


class _Places:
    """Where the modules given keep weights and buffers."""

    def __init__(self, modules: list[nn.Module], *, narrow: bool = False) -> None:
        self._places: list[tuple[dict[str, Any], str]] = [
            (table, name)
            for module in modules
            for table in (module._parameters, module._buffers)
            for name, value in table.items()
            if value is not None and value.is_floating_point()
        ]
        self._narrow = narrow
        for table, name in self._places:
            if narrow and _is_matrix(table[name]):
                table[name].grad_dtype = None  # any

    @contextmanager
    def rounded(self) -> Iterator[Pairs]:
        """Put bf16 copies in the places; yields what was there with its copy, and puts it back."""
        wide = [table[name] for table, name in self._places]
        pairs = [(value, self._copy(value)) for value in wide]
        try:
            for (table, name), (_, copy) in zip(self._places, pairs, strict=True):
                table[name] = copy
            yield pairs
        finally:
            for (table, name), value in zip(self._places, wide, strict=True):
                table[name] = value

    def _copy(self, value: Tensor) -> Tensor:
        narrow = self._narrow and _is_matrix(value)
        copy: Tensor = _Rounded.apply(value) if narrow else value.to(torch.bfloat16)
        return copy


def _is_matrix(value: Tensor) -> bool:
    # The others are small, and their gradients sums over many rows.
    return isinstance(value, nn.Parameter) and value.ndim >= 2


class _Rounded(torch.autograd.Function):
    """A bf16 copy whose gradient is not widened, unless there is one already to which it is to be added.

    Within one backward every copy must be the only one of its weight: what comes together there is added in bf16.
    """

    @staticmethod
    def forward(ctx: Any, wide: Tensor) -> Tensor:
        ctx.wide = wide
        return wide.to(torch.bfloat16)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        if ctx.wide.grad is None:
            return gradient
        ctx.wide.grad = ctx.wide.grad.float()
        return gradient.float()


class _Kept(NamedTuple):
    """A view of what `make` returns, in place of that view."""

    make: Callable[[], Tensor]
    size: torch.Size
    stride: tuple[Any, ...]
    offset: Any


class _MadeAgain(saved_tensors_hooks):
    """Keeps for the backward how copies of weights and outputs of norms were made, instead of themselves."""

    def __init__(self, pairs: Pairs, norms: list[nn.LayerNorm]) -> None:
        super().__init__(self._pack, self._unpack)
        self._norms = norms
        self._hooks: list[RemovableHandle] = []
        # By address, which is theirs as long as they are held here.
        self._known: dict[int, tuple[Tensor, Callable[[], Tensor]]] = {}
        for wide, copy in pairs:
            self._know(copy, partial(_round, wide))

    def __enter__(self) -> None:
        self._hooks = [norm.register_forward_hook(self._know_norm) for norm in self._norms]
        super().__enter__()

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        for hook in self._hooks:
            hook.remove()
        self._known.clear()

    def _know_norm(self, norm: nn.LayerNorm, given: tuple[Tensor], output: Tensor) -> None:
        weights = norm.weight.detach(), norm.bias.detach()
        self._know(output, partial(F.layer_norm, given[0].detach(), norm.normalized_shape, *weights, norm.eps))

    def _know(self, tensor: Tensor, make: Callable[[], Tensor]) -> None:
        self._known[tensor.untyped_storage().data_ptr()] = tensor, make

    def _pack(self, tensor: Tensor) -> Tensor | _Kept:
        known = self._known.get(tensor.untyped_storage().data_ptr())
        return tensor if known is None else _Kept(known[1], tensor.size(), tensor.stride(), tensor.storage_offset())

    @staticmethod
    def _unpack(kept: Tensor | _Kept) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        return kept.make().as_strided(kept.size, kept.stride, kept.offset)


def _round(wide: Tensor) -> Tensor:
    return wide.detach().to(torch.bfloat16)
