"""What passes through a classifier's blocks in one forward, taken by hooks; the model stays as it is.

Letters: T tokens of the stream, t tokens of one sequence, D width, S temporal slices, R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from s4d.models.classifier import FinetuneModel
from s4d.models.stream import Layout
from s4d.models.vit import Block


@dataclass(kw_only=True, slots=True)
class Trace:
    """Of one forward: `qkv` (T, 3 D) of each block, and `tokens` (T, D) as the last block leaves them."""

    qkv: list[Tensor] = field(default_factory=list)
    tokens: Tensor | None = None


@contextmanager
def traced(module: FinetuneModel) -> Iterator[Trace]:
    """Record the next forward of `module`."""
    trace = Trace()

    def keep_qkv(_: nn.Module, __: Any, output: Tensor) -> None:
        trace.qkv.append(output.detach())

    def keep_tokens(_: nn.Module, __: Any, output: tuple[Tensor, object]) -> None:
        trace.tokens = output[0].detach()

    blocks = [block for block in module.blocks if isinstance(block, Block)]
    handles = [block.attn.qkv.register_forward_hook(keep_qkv) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(keep_tokens))
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def sequences(values: Tensor, layout: Layout) -> list[Tensor]:
    """The rows (T, ...) of a stream, cut into those of each sequence (t, ...)."""
    return list(values.split([length for count, length in layout for _ in range(count)]))
