"""Memory of a batch's pixels: written once, by the crop, and never copied on its way to the training process."""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

_shared = False


def share() -> None:
    """Let every buffer of this process lie in memory that other processes can map."""
    global _shared
    _shared = True


def shared_storage(size: int) -> torch.UntypedStorage:
    """Memory of `size` bytes, all 0, behind a descriptor of its own: it has no name, and no limit as /dev/shm has."""
    descriptor = os.memfd_create("s4d-pixels", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, max(size, 1))
        return mapped_storage(descriptor, max(size, 1))
    finally:
        os.close(descriptor)


def mapped_storage(descriptor: int, size: int) -> torch.UntypedStorage:
    """The `size` bytes of shared memory behind `descriptor`, which may be closed afterwards."""
    storage: torch.UntypedStorage = torch.UntypedStorage._new_shared_fd_cpu(descriptor, size)  # type: ignore[attr-defined]
    return storage


def pixel_buffer(shape: tuple[int, ...]) -> Tensor:
    """Uninitialised uint8 tensor; within a decoding process it lies in memory shared with the training process."""
    if not _shared:
        return torch.empty(shape, dtype=torch.uint8)
    size = math.prod(shape)
    return torch.empty(0, dtype=torch.uint8).set_(shared_storage(size))[:size].view(shape)
