"""Values with tensors from one process to another over a socket, without a copy of what lies in shared memory.

A message is a number and open descriptors: the pickled value in a memory file, then the memory of each large tensor.
Messages are thus small, so a sender never waits for the receiver, and what was sent survives the sender.
"""

from __future__ import annotations

import errno
import io
import os
import pickle
import resource
import socket
import struct
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from s4d.data.buffers import SharedBuffer, buffer_of, received, shared_buffer

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
        self.buffers: list[SharedBuffer] = []
        self.copies: list[Tensor] = []

    def persistent_id(self, value: Any) -> tuple[Any, ...] | None:
        if not isinstance(value, Tensor) or value.nbytes <= INLINE_BYTES:
            return None
        buffer = buffer_of(value)
        if buffer is None:
            buffer = shared_buffer(value.nbytes)
            value = buffer.take()[: value.nbytes].view(value.dtype).view(value.shape).copy_(value)
            self.copies.append(value)
        if buffer not in self.buffers:
            self.buffers.append(buffer)
        shape, stride = tuple(value.shape), value.stride()
        number, offset = self.buffers.index(buffer), int(value.storage_offset())
        return tuple(_Place(number, buffer.size, value.dtype, shape, stride, offset))

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype is not torch.bfloat16:
            return _from_numpy, (value.detach().numpy(),)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, descriptors: list[int]) -> None:
        super().__init__(file)
        self.descriptors = descriptors
        self.memory: dict[int, Tensor] = {}

    def persistent_load(self, place: Any) -> Tensor:
        where = _Place(*place)
        if where.number not in self.memory:
            self.memory[where.number] = received(self.descriptors[where.number], where.size)
        empty, storage = torch.empty(0, dtype=where.dtype), self.memory[where.number].untyped_storage()
        return empty.set_(storage, where.offset, where.shape, where.stride)


def _from_numpy(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array)


def raise_open_files() -> None:
    """Let this process hold as many descriptors as it may: those of unread messages count for all ranks together."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def send(connection: socket.socket, number: int, value: object) -> None:
    """Send a value under a number of the sender's choice."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    if len(pickler.buffers) > MAX_DESCRIPTORS:
        raise ValueError(f"{len(pickler.buffers)} large tensors in one value, at most {MAX_DESCRIPTORS}")
    content = os.memfd_create("s4d-message", os.MFD_CLOEXEC)
    try:
        with open(content, "wb", closefd=False) as stream:
            stream.write(file.getbuffer())
        for buffer in pickler.buffers:
            buffer.mark_sent()
        shared = [buffer.descriptor for buffer in pickler.buffers]
        socket.send_fds(connection, [NUMBER.pack(number)], [content, *shared])
    finally:
        os.close(content)


def receive(connection: socket.socket) -> tuple[int, Any] | None:
    """The next number and value, None when the sender has ended and everything it sent has been received."""
    try:
        head, descriptors, flags, _ = _received(connection)
    except ConnectionResetError:
        # The sender left tasks unread; what it sent before can still be read.
        head, descriptors, flags, _ = _received(connection)
    if not head:
        return None
    if flags & socket.MSG_CTRUNC:
        raise OSError(errno.EMFILE, "too many open files in the training process (see ulimit -n)")
    try:
        size = os.fstat(descriptors[0]).st_size
        content = io.BytesIO(os.pread(descriptors[0], size, 0))
        return NUMBER.unpack(head)[0], _Unpickler(content, descriptors[1:]).load()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _received(connection: socket.socket) -> tuple[bytes, list[int], int, Any]:
    return socket.recv_fds(connection, NUMBER.size, MAX_DESCRIPTORS + 1, socket.MSG_CMSG_CLOEXEC)
