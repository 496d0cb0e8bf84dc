"""Output that outlives its readers: when a launcher is gone, what a rank still says must not end the rank.

Ranks started over ssh write into a pipe that breaks with the connection, just when they have to save a checkpoint.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET)


class _Lasting(io.RawIOBase):
    """Writes to a descriptor, and to nowhere once nobody reads it any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: ReadableBuffer) -> int:
        try:
            return os.write(self._descriptor, data)
        except OSError as error:
            if error.errno not in GONE:
                raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._descriptor)
        os.close(nowhere)
        return memoryview(data).nbytes


def outlive_readers() -> None:
    """Let standard and error output of this process fail for no reader."""
    sys.stdout.flush()
    sys.stderr.flush()
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.BufferedWriter(_Lasting(number)), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
        for number in (1, 2)
    )
