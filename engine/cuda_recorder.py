"""Recording work as CUDA graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import torch

Left = TypeVar("Left")


class CudaRecorder:
    """Records graphs that share memory, as no two of them ever run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, rehearse: Callable[[], object], work: Callable[[], Left]) -> tuple[Callable[[], None], Left]:
        """See `engine.captured.Recorder`; RuntimeError if `work` does what a graph cannot hold, such as waiting.

        The rehearsal makes, on the stream of the recording, what libraries make there at their first call.
        """
        before = torch.cuda.current_stream(self._device)
        # Autograd's nodes belong to the stream they were made on: none of an earlier step must be left.
        gc.collect()
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream):
            rehearse()
        before.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads copy batches and checkpoints meanwhile; they do not count as part of the recording.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                left = work()
        except BaseException:
            # Torch does not clear up after a recording that the driver has given up.
            torch.cuda.set_stream(before)
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(self._device.index, self._pool)
            raise
        return graph.replay, left
