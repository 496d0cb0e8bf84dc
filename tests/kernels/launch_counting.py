"""What a call starts on the device and keeps in memory, counted without one.

Every Triton launch and every aten op that neither allocates nor makes a view is one start. Dispatch modes are off
inside a custom op, so its registered function is called under the mode instead. Kernels do not run: values are
arbitrary, which a call that reads none on the host cannot notice.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from kernels.launch import Launch, recording

# Reading a value on the host, or a shape that depends on values.
WAITING = {
    *("_local_scalar_dense", "nonzero", "nonzero_static", "masked_select", "item", "bincount"),
    *("unique", "_unique", "_unique2", "unique_consecutive", "unique_dim", "is_nonzero", "equal"),
}
_ALLOCATING = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"}
_HOST_ONLY = {"_unsafe_view", "detach", "alias", "lift_fresh", "sym_size", "sym_stride", "sym_numel", "is_same_size"}


class Started(TorchDispatchMode):
    """Counts of one block: ``launches`` of Triton kernels, ``ops`` of aten that start work, ``names`` of all ops seen.

    ``live`` are the bytes of tensors made in the block that are alive.
    """

    def __init__(self, launches: list[Launch]) -> None:
        super().__init__()
        self.launches = launches
        self.ops: Counter[str] = Counter()
        self.names: set[str] = set()
        self._storages: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        # What was made (bytes) and released (bytes, negative) in order, by serial number.
        self._events: list[tuple[int, int]] = []
        self._made = 0
        self._described = 0

    @property
    def total(self) -> int:
        """Starts on the device."""
        return len(self.launches) + sum(self.ops.values())

    @property
    def kernels(self) -> list[str]:
        """Names of the launched kernels, in order."""
        return [launch.name for launch in self.launches]

    @property
    def waits(self) -> set[str]:
        """Ops seen that make the host wait."""
        return self.names & WAITING

    @property
    def live(self) -> int:
        """Bytes alive now of tensors made in the block."""
        self._let_go()
        return sum(size for _, size in self._events)

    @property
    def workspace(self) -> int:
        """The most bytes that were alive at once of tensors that are gone now."""
        self._let_go()
        gone = {serial for serial, size in self._events if size < 0}
        most = held = 0
        for serial, size in self._events:
            held += size if serial in gone else 0
            most = max(most, held)
        return most

    def restart(self) -> None:
        """Forget launches, ops and tensors seen so far."""
        self.launches.clear()
        self._described = 0
        self.ops.clear()
        self.names.clear()
        self._events.clear()

    def describe(self) -> str:
        """All starts, for the message of a failed assertion."""
        return f"{self.total} starts: {self.kernels} + {dict(self.ops)}"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._let_go()
        qualified = func._schema.name
        definition = OPDEFS.get(qualified)
        if definition is not None:
            tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
            device = tensors[0].device.type if tensors else None
            functions = definition._backend_fns
            function = functions.get(device) or functions.get(None) or definition._init_fn
            with self, torch.no_grad():
                return function(*args, **kwargs)
        # Below autograd, composite ops arrive whole; outside of custom ops they arrive as their parts.
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        name = qualified.removeprefix("aten::")
        indices = args[1] if name in {"index", "index_put", "index_put_"} else ()
        self.names.add("nonzero" if any(i is not None and i.dtype == torch.bool for i in indices) else name)
        result = func(*args, **kwargs)
        if not (name in _ALLOCATING or name in _HOST_ONLY or _is_view(func)):
            self.ops[name] += 1
        self._follow(result, given=(args, kwargs))
        return result

    def _let_go(self) -> None:
        """Describe the tensors of recorded launches instead of holding them."""
        for index in range(self._described, len(self.launches)):
            launch = self.launches[index]
            arguments = {name: _description(value) for name, value in launch.arguments.items()}
            self.launches[index] = replace(launch, arguments=arguments)
        self._described = len(self.launches)

    def _follow(self, result: Any, given: Any) -> None:
        known = {leaf.untyped_storage()._cdata for leaf in tree_flatten(given)[0] if isinstance(leaf, Tensor)}
        for tensor in (leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)):
            storage = tensor.untyped_storage()
            if storage in self._storages or storage._cdata in known:
                continue
            self._storages.add(storage)
            self._made += 1
            self._events.append((self._made, storage.nbytes()))
            weakref.finalize(storage, self._release, self._made, storage.nbytes())

    def _release(self, serial: int, size: int) -> None:
        # What was made before a restart is not counted any more.
        if any(made == serial for made, _ in self._events):
            self._events.append((serial, -size))


def _description(value: Any) -> Any:
    return (value.dtype, tuple(value.shape)) if isinstance(value, Tensor) else value


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(each.alias_info is not None and not each.alias_info.is_write for each in returns)


@contextmanager
def counting(*, architecture: int = 90) -> Iterator[Started]:
    """Count what the block starts on a device of ``architecture``; Triton kernels are recorded, not run.

    For forward and backward apart, call ``restart`` between them and give ``torch.autograd.grad`` its gradient.
    """
    with recording(dry=True, architecture=architecture) as launches, Started(launches) as started:
        yield started


@contextmanager
def saved_bytes(exclude: Iterable[Tensor] = ()) -> Iterator[Counter[str]]:
    """Bytes of the storages that the block saves for backward, by shape and dtype, each storage once.

    ``exclude``: tensors that live on anyway, such as parameters and an input shared with another layer.
    """
    known = {tensor.untyped_storage()._cdata for tensor in exclude}
    kept: list[Tensor] = []
    sizes: Counter[str] = Counter()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            known.add(storage._cdata)
            kept.append(tensor)
            sizes[f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes
