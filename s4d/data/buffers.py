"""Memory of a batch's pixels: written once, by the crop, and never copied on its way to the training process.

In a decoding process it is shared memory, and is written again for a later batch once the training process has let go
of it: new memory costs the kernel several times what a crop costs.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref

import numpy as np
import torch
from torch import Tensor

# More buffers than batches are under way at a time; the others are not kept.
KEPT = 32
SENT, FREE = 1, 0

_kept: list[SharedBuffer] | None = None
_taken: weakref.WeakValueDictionary[int, SharedBuffer] = weakref.WeakValueDictionary()


class SharedBuffer:
    """`size` bytes behind a descriptor, without a name or the limits of /dev/shm; one more byte says who has them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.descriptor = os.memfd_create("s4d-pixels", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)
        os.ftruncate(self.descriptor, size + 1)
        self._memory = mmap.mmap(self.descriptor, size + 1)
        self._is_taken = False

    @property
    def is_free(self) -> bool:
        """Whether no tensor uses the memory, in this process or in the one it was sent to."""
        return not self._is_taken and self._memory[self.size] == FREE

    def take(self) -> Tensor:
        """The memory as uint8 (size,), not to be given to others before that tensor and all its views are gone."""
        array = np.frombuffer(self._memory, np.uint8, self.size)
        self._is_taken = True
        # The tensor keeps the array for as long as anything uses its storage.
        weakref.finalize(array, self._give_back)
        tensor = torch.from_numpy(array)
        _taken[tensor.data_ptr()] = self
        return tensor

    def mark_sent(self) -> None:
        """Leave the memory to the process that receives it, until that is done with it."""
        self._memory[self.size] = SENT

    def _give_back(self) -> None:
        self._is_taken = False


def share() -> None:
    """Let every buffer of this process lie in memory that other processes can map."""
    global _kept
    _kept = []


def shared_buffer(size: int) -> SharedBuffer:
    """A buffer of at least `size` bytes, at most twice as many, that nobody uses."""
    kept = _kept if _kept is not None else []
    free = [buffer for buffer in kept if buffer.is_free]
    fitting = [buffer for buffer in free if size <= buffer.size <= 2 * size]
    if fitting:
        return min(fitting, key=lambda buffer: buffer.size)
    if len(kept) >= KEPT and free:
        kept.remove(free[0])
    buffer = SharedBuffer(size)
    if len(kept) < KEPT:
        kept.append(buffer)
    return buffer


def buffer_of(tensor: Tensor) -> SharedBuffer | None:
    """The shared buffer that a tensor lies in."""
    return _taken.get(tensor.untyped_storage().data_ptr())


def received(descriptor: int, size: int) -> Tensor:
    """The memory of a buffer that another process sent, written again when the tensor and its views are gone."""
    memory = mmap.mmap(descriptor, size + 1)
    array = np.frombuffer(memory, np.uint8, size)
    weakref.finalize(array, memory.__setitem__, size, FREE).atexit = False
    return torch.from_numpy(array)


def pixel_buffer(shape: tuple[int, ...]) -> Tensor:
    """Uninitialised uint8 tensor; within a decoding process it lies in memory shared with the training process."""
    if _kept is None:
        return torch.empty(shape, dtype=torch.uint8)
    size = math.prod(shape)
    return shared_buffer(max(size, 1)).take()[:size].view(shape)
