"""Values with tensors from one process to another over a socket, without a copy of what lies in shared memory.

A message is a number and open descriptors: the pickled value in a memory file, then the memory of each large tensor.
Messages are thus small, so a sender never waits for the receiver, and what was sent survives the sender.
"""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from s4d.data.buffers import mapped_storage, shared_storage

INLINE_BYTES = 1 << 16
# The kernel passes at most 253 with one message.
MAX_DESCRIPTORS = 250
NUMBER = struct.Struct("=q")


class _Place(NamedTuple):
    """Where a tensor lies: number of its descriptor, bytes behind that, and the view of them."""

    number: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class _Pickler(pickle.Pickler):
    """Large tensors become places; small ones travel inside the message, which costs less than mapping memory."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.storages: dict[int, torch.UntypedStorage] = {}

    def persistent_id(self, value: Any) -> tuple[Any, ...] | None:
        if not isinstance(value, Tensor) or value.nbytes <= INLINE_BYTES:
            return None
        if not value.untyped_storage().is_shared():
            value = torch.empty(0, dtype=value.dtype).set_(shared_storage(value.nbytes)).view(value.shape).copy_(value)
        storage = value.untyped_storage()
        number = list(self.storages).index(storage.data_ptr()) if storage.data_ptr() in self.storages else None
        if number is None:
            number = len(self.storages)
            self.storages[storage.data_ptr()] = storage
        shape, stride = tuple(value.shape), value.stride()
        return tuple(_Place(number, storage.nbytes(), value.dtype, shape, stride, int(value.storage_offset())))

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype is not torch.bfloat16:
            return _from_numpy, (value.detach().numpy(),)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, descriptors: list[int]) -> None:
        super().__init__(file)
        self.descriptors = descriptors
        self.storages: dict[int, torch.UntypedStorage] = {}

    def persistent_load(self, place: Any) -> Tensor:
        where = _Place(*place)
        if where.number not in self.storages:
            descriptor = self.descriptors[where.number]
            self.storages[where.number] = mapped_storage(descriptor, where.size)
        empty = torch.empty(0, dtype=where.dtype)
        return empty.set_(self.storages[where.number], where.offset, where.shape, where.stride)


def _from_numpy(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array)


def send(connection: socket.socket, number: int, value: object) -> None:
    """Send a value under a number of the sender's choice."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    if len(pickler.storages) > MAX_DESCRIPTORS:
        raise ValueError(f"{len(pickler.storages)} large tensors in one value, at most {MAX_DESCRIPTORS}")
    content = os.memfd_create("s4d-message", os.MFD_CLOEXEC)
    try:
        with open(content, "wb", closefd=False) as stream:
            stream.write(file.getbuffer())
        shared = [storage._share_fd_cpu_()[0] for storage in pickler.storages.values()]
        socket.send_fds(connection, [NUMBER.pack(number)], [content, *shared])
    finally:
        os.close(content)


def receive(connection: socket.socket) -> tuple[int, Any] | None:
    """The next number and value, None when the sender has ended and everything it sent has been received."""
    try:
        head, descriptors, _, _ = _received(connection)
    except ConnectionResetError:
        # The sender left tasks unread; what it sent before can still be read.
        head, descriptors, _, _ = _received(connection)
    if not head:
        return None
    try:
        size = os.fstat(descriptors[0]).st_size
        content = io.BytesIO(os.pread(descriptors[0], size, 0))
        return NUMBER.unpack(head)[0], _Unpickler(content, descriptors[1:]).load()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _received(connection: socket.socket) -> tuple[bytes, list[int], int, Any]:
    return socket.recv_fds(connection, NUMBER.size, MAX_DESCRIPTORS + 1, socket.MSG_CMSG_CLOEXEC)
