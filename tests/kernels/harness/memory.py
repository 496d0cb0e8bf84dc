"""Memory that shows mistakes: operands amid poison, and allocations with guarded margins filled with poison.

A kernel that reads past its operand meets NaN (the largest value in integers), one that leaves a result unwritten
returns it, and one that writes past its result destroys a margin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor

# Bytes on either side of a guarded allocation; a multiple of every alignment that kernels are compiled for.
MARGIN = 512
SENTINEL = 0xA5
# Filling a far operand's memory with poison would commit it.
_empty = torch.empty
# Elements from the first to the last row of a far operand: more than 32 bits can count.
FAR = (1 << 31) + 4096


def poison(dtype: torch.dtype) -> float | int | bool:
    """The value of memory that nothing may read."""
    if dtype == torch.bool:
        return True
    return float("nan") if dtype.is_floating_point else torch.iinfo(dtype).max


def _poisoned(tensor: Tensor, *shape: int) -> Tensor:
    return torch.full(shape, poison(tensor.dtype), dtype=tensor.dtype, device=tensor.device)


def plain(tensor: Tensor) -> Tensor:
    """A dense copy."""
    return tensor.clone(memory_format=torch.contiguous_format)


def margins(tensor: Tensor) -> Tensor:
    """A copy inside a larger buffer: poison before, after and between the rows of every dimension."""
    buffer = _poisoned(tensor, *(size + 2 for size in tensor.shape))
    inner = buffer[tuple(slice(1, -1) for _ in tensor.shape)]
    return inner.copy_(tensor)


def misaligned(tensor: Tensor) -> Tensor:
    """A dense copy that begins one element after an aligned address."""
    buffer = _poisoned(tensor, tensor.numel() + 65)
    return buffer[1 : 1 + tensor.numel()].view(tensor.shape).copy_(tensor)


def transposed(tensor: Tensor) -> Tensor:
    """A copy whose first dimension is the dense one; of a vector, every second element of a poisoned buffer."""
    if tensor.ndim == 1:
        return _poisoned(tensor, 2 * tensor.numel())[::2].copy_(tensor)
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def far(tensor: Tensor) -> Tensor:
    """A copy whose last row lies 2^31 elements after its first; memory that nobody touches is never committed."""
    if tensor.ndim < 2 or tensor.shape[0] < 2:
        return plain(tensor)
    stride = FAR // (tensor.shape[0] - 1)
    buffer = _empty((tensor.shape[0] - 1) * stride + tensor[0].numel(), dtype=tensor.dtype, device=tensor.device)
    return buffer.as_strided(tensor.shape, (stride, *tensor[0].contiguous().stride())).copy_(tensor)


PLACEMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": plain,
    "margins": margins,
    "misaligned": misaligned,
    "transposed": transposed,
    "far": far,
}
# What fuzzing draws from; a far operand is worth one test of its own.
NEAR = tuple(name for name in PLACEMENTS if name != "far")


def place(tensor: Tensor, placement: str) -> Tensor:
    """A copy of ``tensor`` placed as the row ``placement`` says; scalars and empty tensors are only copied.

    ``as given`` is no row: it copies nothing, for operands too large for it.
    """
    if placement == "as given":
        return tensor.detach()
    return PLACEMENTS[placement](tensor) if tensor.ndim and tensor.numel() else plain(tensor)


class OverrunError(AssertionError):
    """A margin of a guarded allocation was written to."""


def _guarded(tensor: Tensor, *, poisoned: bool, guards: list[Tensor]) -> Tensor:
    """``tensor`` again, in the middle of a buffer of sentinels."""
    if type(tensor) is not Tensor or tensor.device.type == "meta" or not tensor.numel():
        return tensor
    storage = tensor.untyped_storage()
    buffer = torch.full((storage.nbytes() + 2 * MARGIN,), SENTINEL, dtype=torch.uint8, device=tensor.device)
    guards.append(buffer)
    offset = MARGIN // tensor.element_size()
    inner = tensor.detach().set_(buffer.untyped_storage(), offset, tensor.shape, tensor.stride())
    return inner.fill_(poison(tensor.dtype) if poisoned else 0)


_ALLOCATORS: tuple[tuple[Any, str, bool], ...] = (
    (torch, "empty", True),
    (torch, "empty_like", True),
    (torch, "empty_strided", True),
    (torch.Tensor, "new_empty", True),
    (torch.Tensor, "new_empty_strided", True),
    (torch, "zeros", False),
    (torch, "zeros_like", False),
    (torch.Tensor, "new_zeros", False),
)


@contextmanager
def guarded_allocations() -> Iterator[None]:
    """Poison what the block allocates uninitialised and raise OverrunError if it writes beside an allocation."""
    guards: list[Tensor] = []

    def guarding(make: Callable[..., Tensor], *, poisoned: bool) -> Callable[..., Tensor]:
        @wraps(make)
        def allocate(*args: object, **kwargs: object) -> Tensor:
            tensor = make(*args, **kwargs)
            return tensor if "out" in kwargs else _guarded(tensor, poisoned=poisoned, guards=guards)

        return allocate

    with pytest.MonkeyPatch.context() as patch:
        for owner, name, poisoned in _ALLOCATORS:
            patch.setattr(owner, name, guarding(getattr(owner, name), poisoned=poisoned))
        yield
    for buffer in guards:
        for side, margin in (("before", buffer[:MARGIN]), ("after", buffer[-MARGIN:])):
            if not bool((margin == SENTINEL).all()):
                raise OverrunError(f"wrote {side} an allocation of {buffer.numel() - 2 * MARGIN} bytes")
