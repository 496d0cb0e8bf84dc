"""Results of a dataset in order, computed here or ahead of time in worker processes."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import types
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, Protocol, TypeVar

import torch
from numpy.typing import NDArray
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import DataLoader

from s4d.errors import DataError, UserError

PREFETCH = 3
INLINE_BYTES = 1 << 16
SWITCH_SECONDS = 5e-4
GRACE_SECONDS = 20.0

Item = TypeVar("Item", covariant=True)
Value = TypeVar("Value")


class Indexed(Protocol[Item]):
    """Anything that computes item `index`, in whatever process."""

    def __getitem__(self, index: int) -> Item: ...


@dataclass(frozen=True, slots=True)
class _Failed:
    """A user's error that happened in a worker; carried as a value, since torch wraps exceptions in tracebacks."""

    error: type[UserError]
    message: str


class _Guarded(Generic[Value]):
    """The dataset as the workers see it."""

    def __init__(self, items: Indexed[Value]) -> None:
        self.items = items

    def __getitem__(self, index: int) -> Value | _Failed:
        try:
            return self.items[index]
        except UserError as error:
            return _Failed(type(error), str(error))


def in_order(items: Indexed[Value], indices: Sequence[int], workers: int) -> Generator[Value, None, None]:
    """`items[i]` for each of `indices`, computed by `workers` processes that end with this iterator or this process."""
    if workers == 0:
        return (items[index] for index in indices)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["s4d.data.worker_server"])
    loader: DataLoader[Any] = DataLoader(
        _Guarded(items),  # type: ignore[arg-type]
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        prefetch_factor=PREFETCH,
        collate_fn=_unchanged,
        worker_init_fn=_prepare_worker,
        multiprocessing_context=context,
    )
    with _without_entry_script():
        stream = _results(iter(loader), len(indices))
    # Workers outlast a SIGTERM, also the one that Python sends at exit to those of an iterator nobody closed.
    atexit.register(_close, weakref.ref(stream))
    return stream


def _results(results: Iterator[Any], count: int) -> Generator[Any, None, None]:
    try:
        for _ in range(count):
            try:
                value = next(results)
            except RuntimeError as error:
                if "worker" not in str(error):
                    raise
                raise DataError(f"data.workers: a decoding process died (out of memory?): {error}") from error
            if isinstance(value, _Failed):
                raise value.error(value.message)
            yield value
    finally:
        # Ends the workers here and now. A traceback would keep them until the garbage collector ends them from whatever
        # thread it runs in, the one that has to tell them included.
        del results


def _close(reference: weakref.ref[Generator[Any, None, None]]) -> None:
    stream = reference()
    if stream is not None:
        stream.close()


def _unchanged(value: Value) -> Value:
    return value


def _prepare_worker(worker: int) -> None:
    # Ctrl-C and a launcher's SIGTERM reach all processes; the training process may still want a batch to end its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    # The thread that hands over finished batches should not wait long for the one that decodes.
    sys.setswitchinterval(SWITCH_SECONDS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    ForkingPickler.register(torch.Tensor, _reduce_tensor)


def _end_later(number: int, frame: object) -> None:
    timer = threading.Timer(GRACE_SECONDS, os._exit, (128 + number,))
    timer.daemon = True
    timer.start()


def _end_with_parent() -> None:
    # A worker keeps its fork server alive and the other way round, so both would outlive a killed training process.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _reduce_tensor(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Small tensors travel inside the message; a segment of shared memory costs a round trip to a busy worker."""
    if tensor.nbytes > INLINE_BYTES:
        return reduce_tensor(tensor)
    return _from_numpy, (tensor.numpy(),)


def _from_numpy(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(array)


@contextmanager
def _without_entry_script() -> Iterator[None]:
    """Keep new processes from importing the program's entry script, and with it everything that training needs."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
