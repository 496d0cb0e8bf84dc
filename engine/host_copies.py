"""Copies of tensors in host memory that is kept from one checkpoint to the next.

Fresh memory costs several times the copy itself: the system hands it out page by page.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Gathered tensors whose copies are under way, before the host waits for them.
IN_FLIGHT_BYTES = 1 << 30


class HostCopies:
    """One host tensor per key. On a GPU copies run beside the computation, which must not overwrite their sources."""

    def __init__(self, device: torch.device) -> None:
        self._copies: dict[str, Tensor] = {}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._in_flight = 0

    @torch.no_grad()
    def take(self, key: str, source: Tensor) -> Tensor:
        """A copy of `source`, complete after `finish`, valid until the key is taken again."""
        known = self._copies.get(key)
        if known is None or known.shape != source.shape or known.dtype != source.dtype:
            known = torch.empty(source.shape, dtype=source.dtype, pin_memory=self._stream is not None)
            self._copies[key] = known
        if self._stream is None or source.device.type == "cpu":
            known.copy_(source)
            return known
        self._stream.wait_stream(torch.cuda.current_stream(source.device))
        with torch.cuda.stream(self._stream):
            known.copy_(source, non_blocking=True)
        # The memory of a gathered tensor is not given to others before its copy is done.
        source.record_stream(self._stream)
        self._in_flight += source.nbytes
        if self._in_flight > IN_FLIGHT_BYTES:
            self.finish()
            self._in_flight = 0
        return known

    def hold_updates(self) -> None:
        """Whatever the device computes from here on comes after the copies; the host does not wait."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def finish(self) -> None:
        """Wait until all copies are complete."""
        if self._stream is not None:
            self._stream.synchronize()
