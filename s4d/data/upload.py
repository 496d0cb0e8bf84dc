"""Batches on their way to the GPU: built and copied beside the step before them, on a stream of their own."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

import torch
from torch import Tensor

from s4d.data.micro_batches import Built
from s4d.data.staging import staged

Item = TypeVar("Item")


def uploaded(
    items: Generator[Item, None, None], work: Callable[[Item], Built], device: torch.device
) -> Generator[Built, None, None]:
    """`work(item)` of each item in order with its tensors on `device`, by a thread of this process."""
    return _handed_over(staged(items, work if device.type == "cpu" else _on_stream(work, device)))


def _on_stream(work: Callable[[Item], Built], device: torch.device) -> Callable[[Item], Built]:
    # Decoding and copying run beside the step's kernels, not between them.
    stream = torch.cuda.Stream(device)

    def built(item: Item) -> Built:
        with torch.cuda.device(device), torch.cuda.stream(stream):
            batch, skipped = work(item)
            # From pageable memory the driver copies in its own time, with the host waiting.
            batch = batch.apply(_pinned).to(device)
            stream.synchronize()
        return batch, skipped

    return built


def _pinned(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_cuda else tensor.pin_memory()


def _handed_over(results: Generator[Built, None, None]) -> Generator[Built, None, None]:
    try:
        for batch, skipped in results:
            yield batch.apply(_in_use), skipped
    finally:
        results.close()


def _in_use(tensor: Tensor) -> Tensor:
    if tensor.is_cuda:
        # Its memory may serve the stream it was made on again only when the step's stream is through with it.
        tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return tensor
