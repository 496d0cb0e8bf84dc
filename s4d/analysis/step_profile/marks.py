"""Marks the parts of a step in a trace, from outside: hooks on a model's modules and ranges around calls.

No marker lives in the models. A mark is a range of torch.profiler named `s4d: <part>`; what runs inside the innermost
one belongs to that part. Modules compiled as a whole keep the mark of what surrounds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.profiler import record_function

from s4d.analysis.step_work import PARTS
from s4d.models import cross_decoder, vit
from s4d.models.classifier import FinetuneModel
from s4d.models.mae import PretrainModel
from s4d.models.moae import MoaeAdapters

PREFIX = "s4d: "
STEP = "step"
BACKWARD = "backward"
# The calls in the blocks that are attention alone.
ATTENTION: tuple[tuple[Any, str], ...] = ((vit, "varlen_attention"), (cross_decoder, "cross_attention"))
# What surrounds the model's parts. Idle is what is left, so nothing marks it.
AROUND = ("data wait", "host to device", BACKWARD, "optimizer", "communication", "idle")
# Entry points of DeepSpeed that carry gradients and weights between ranks, by the object below the engine that has
# them; which of them exist depends on the stage.
DEEPSPEED_CALLS = (
    ("", ("allreduce_gradients",)),
    (
        "optimizer",
        (
            "process_gradients",
            "reduce_ready_partitions_and_remove_grads",
            "overlapping_partition_gradients_reduce_epilogue",
        ),
    ),
    (
        "optimizer.parameter_offload",
        (
            "pre_sub_module_forward_function",
            "post_sub_module_forward_function",
            "pre_sub_module_backward_function",
            "post_sub_module_backward_function",
        ),
    ),
)


class Marks:
    """The open marks of the step's thread, outermost first; without `active` none is opened."""

    def __init__(self) -> None:
        self.active = False
        self._open: list[tuple[str, Any]] = []

    @property
    def part(self) -> str:
        """Name of the innermost open mark; empty outside of all."""
        return self._open[-1][0] if self._open else ""

    def enter(self, part: str) -> None:
        """Open a mark."""
        record = record_function(f"{PREFIX}{part}")
        record.__enter__()
        self._open.append((part, record))

    def leave(self, after: str | None = None) -> None:
        """Close the innermost mark; `after` is what the model's surrounding mark goes on as."""
        self._open.pop()[1].__exit__(None, None, None)
        # Recomputed in the backward, a module is surrounded by something else.
        if after is not None and self.part in PARTS and self.part != after:
            self._open.pop()[1].__exit__(None, None, None)
            self.enter(after)

    @contextmanager
    def inside(self, part: str) -> Iterator[None]:
        """A mark around a block."""
        if not self.active:
            yield
            return
        self.enter(part)
        try:
            yield
        finally:
            self.leave()

    def around(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call` inside a mark."""

        def marked(*arguments: Any, **named: Any) -> Any:
            with self.inside(part):
                return call(*arguments, **named)

        return marked


@contextmanager
def marked_model(model: nn.Module, marks: Marks) -> Iterator[None]:
    """Mark the parts of a model's forward for the length of a block, while `marks` are active.

    To be entered before the first forward: a compiled block that meets a hook only later is compiled again.
    """
    handles = []
    for module, part, after in _modules(model):
        handles += _hooked(module, part, after, marks)
    calls = [(module, name, getattr(module, name)) for module, name in ATTENTION]
    for module, name, call in calls:
        setattr(module, name, _attention(call, marks))
    try:
        yield
    finally:
        for module, name, call in calls:
            setattr(module, name, call)
        for handle in handles:
            handle.remove()


def _attention(attend: Callable[..., Any], marks: Marks) -> Callable[..., Any]:
    def attention(*arguments: Any, **named: Any) -> Any:
        if torch.compiler.is_compiling():
            return attend(*arguments, **named)
        with marks.inside(f"{'decoder' if marks.part.startswith('decoder') else 'encoder'} attention"):
            return attend(*arguments, **named)

    return attention


def _modules(model: nn.Module) -> Iterable[tuple[nn.Module, str, str | None]]:
    """(module, its part, the part that its surroundings go on as) of a model."""
    if isinstance(model, PretrainModel):
        yield model, "embed", None
        yield model.encoder.patch_embed, "embed", "encoder linear"
        yield model.encoder, "encoder linear", "decoder linear"
        yield model.decoder, "decoder linear", "head and loss"
        yield model.decoder.head, "head and loss", None
    elif isinstance(model, FinetuneModel):
        yield model, "embed", None
        yield model.patch_embed, "embed", "encoder linear"
        for number, block in enumerate(model.blocks, start=1):
            yield block, "encoder linear", "head and loss" if number == len(model.blocks) else None
    else:
        raise TypeError(f"model: expected PretrainModel or FinetuneModel, got {type(model).__name__}")
    for module in model.modules():
        if isinstance(module, MoaeAdapters):
            yield module, "moae", None


def _hooked(module: nn.Module, part: str, after: str | None, marks: Marks) -> list[Any]:
    def before(*_: Any) -> None:
        if not torch.compiler.is_compiling() and marks.active:
            marks.enter(part)

    def behind(*_: Any) -> None:
        if not torch.compiler.is_compiling() and marks.active:
            marks.leave(after)

    return [module.register_forward_pre_hook(before), module.register_forward_hook(behind)]


@contextmanager
def marked_calls(calls: Iterable[tuple[object, str, str]], marks: Marks) -> Iterator[None]:
    """Mark methods of single objects, (object, method, part), for the length of a block; absent ones are left out."""
    changed = []
    for owner, name, part in calls:
        call = getattr(owner, name, None)
        if call is not None:
            setattr(owner, name, marks.around(part, call))
            changed.append((owner, name))
    try:
        yield
    finally:
        for owner, name in changed:
            delattr(owner, name)


def deepspeed_calls(engine: Any) -> list[tuple[object, str, str]]:
    """What of a DeepSpeed engine to mark: its backward, and what moves gradients and weights."""
    calls: list[tuple[object, str, str]] = [(engine, "backward", BACKWARD)]
    for path, names in DEEPSPEED_CALLS:
        owner = engine
        for name in filter(None, path.split(".")):
            owner = getattr(owner, name, None)
        calls += [(owner, name, "communication") for name in names]
    return calls
