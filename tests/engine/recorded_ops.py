"""A CPU's stand-in for CUDA graphs: the ops of some work on the very memory they used, and not a line of its Python.

As a graph does, a recording fixes every host value and every address, leaves memory as it was, and refuses to wait for
the device. What it leaves is NaN until it is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Left = TypeVar("Left")

# Ops whose result, or its shape, the host has to know.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "bincount"}


class Tape(TorchDispatchMode):
    """Records ops below autograd; `entered` holds the tensors that were not made by any of them, by address."""

    def __init__(self) -> None:
        super().__init__()
        self.entered: dict[int, Tensor] = {}
        self._made: dict[int, Tensor] = {}
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._calls: list[tuple[Any, Any, Any, list[tuple[int, Tensor]]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        indices = args[1] if name in {"index", "index_put", "index_put_"} else ()
        if name in WAITING or any(index is not None and index.dtype == torch.bool for index in indices):
            raise RuntimeError(f"{name} waits for the device")
        given = {address(tensor): tensor for tensor in tensors(args, kwargs)}
        for key, tensor in given.items():
            if key not in self._made:
                self.entered.setdefault(key, tensor)
        for tensor in written(func, args, kwargs):
            if address(tensor) not in self._made:
                whole = memory(tensor)
                self._before.setdefault(address(tensor), (whole, whole.clone()))
        result = func(*args, **kwargs)
        fresh = [(place, out) for place, out in enumerate(tensors(result)) if address(out) not in given]
        self._made |= {address(out): out for _, out in fresh}
        self._calls.append((func, args, kwargs, fresh))
        return result

    def take_back(self) -> None:
        """Memory as it was before, and nothing in what was made."""
        for whole, before in self._before.values():
            whole.copy_(before)
        for made in self._made.values():
            if made.is_floating_point():
                made.fill_(torch.nan)

    @torch.no_grad()
    def replay(self) -> None:
        """The ops again, in their order, into the memory that they first made."""
        for func, args, kwargs, fresh in self._calls:
            again = list(tensors(func(*args, **kwargs)))
            for place, out in fresh:
                out.copy_(again[place])


class OpRecorder:
    """See `engine.captured.Recorder`; `tapes` has what was recorded."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []

    def record(self, rehearse: Callable[[], object], work: Callable[[], Left]) -> tuple[Callable[[], None], Left]:
        rehearse()
        tape = Tape()
        with tape:
            left = work()
        with torch.no_grad():
            tape.take_back()
        self.tapes.append(tape)
        return tape.replay, left


def address(tensor: Tensor) -> int:
    """Where a tensor's memory begins; tensors without memory are all alike."""
    return tensor.untyped_storage().data_ptr()


def memory(tensor: Tensor) -> Tensor:
    """All of the memory behind a tensor, as bytes."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def tensors(*values: Any) -> Iterator[Tensor]:
    """Tensors within lists and dictionaries, those without elements left out."""
    for value in values:
        if isinstance(value, Tensor):
            if value.numel():
                yield value
        elif isinstance(value, dict):
            yield from tensors(*value.values())
        elif isinstance(value, list | tuple):
            yield from tensors(*value)


def written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors that an op writes into, by its schema."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors(args[place] if place < len(args) else kwargs.get(argument.name))
