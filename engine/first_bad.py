"""Which tensor of a step is the first that is not finite: the step is computed again and watched.

The order is that of the computation: weights, inputs, outputs of modules, parts of the loss, the loss, gradients.
Everything is a pure function of weights and batch, so what was not finite once is so again, unless the machine erred.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.protocols import Batch, Task

NAMED_SAMPLES = 8
# Order of what is found only after everything has been looked at.
LAST = 1 << 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What was found, in words, and its place in the order of the computation, comparable between ranks."""

    order: int
    text: str

    @property
    def is_guess(self) -> bool:
        """Whether every single tensor was finite, so that the sum of them all is to blame."""
        return self.order >= LAST


class Search:
    """Computes a step's micro batches again on `module`, the task's model or what it is wrapped in, and keeps the first
    tensor that is not finite."""

    def __init__(self, task: Task, module: nn.Module, batches: Sequence[Batch]) -> None:
        self._task = task
        self._module = module
        self._batches = list(batches)
        named = task.module.named_parameters()
        self._parameters = {name: value for name, value in named if value.requires_grad}
        self._looks = 0
        self._largest = (0.0, "")
        self._found: Finding | None = None

    @torch.enable_grad()
    def run(self, *, scale: float, agree: Callable[[bool], bool]) -> Finding | None:
        """The first bad tensor of this rank; ranks that share a model run together.

        Gradients are those of the losses times `scale`, computed only while `agree(nothing was found so far)` says yes,
        which it must to all ranks or to none. None if everything is finite and there was no backward.
        """
        self._look_at_what_is_given()
        statistics = self._task.begin_step(self._module, self._batches)
        for batch in self._batches:
            loss = self._forward(batch, statistics)
            if agree(self._found is None):
                self._backward(batch, loss * scale)
        if self._found is None and self._largest[1]:
            value, name = self._largest
            text = f"the norm of the gradients: each of them is finite here, the largest value is {value:.1e} in {name}"
            return Finding(order=LAST, text=text)
        return self._found

    def _look_at_what_is_given(self) -> None:
        model = self._task.module
        for kind, tensors in (("weight", model.named_parameters()), ("buffer", model.named_buffers())):
            for name, tensor in tensors:
                self._look(f"{kind} {name}", tensor)
                # Where the weights are divided over the ranks, each looks at its own part too.
                self._look(f"{kind} {name}", own_part(tensor))
        for batch in self._batches:
            for name, tensor in tensors_in(batch):
                self._look(f"input {name}", tensor, batch)

    def _forward(self, batch: Batch, statistics: object) -> Tensor:
        with self._watched_outputs(batch):
            result = self._task.forward(self._module, batch, statistics)
        for name, part in result.parts.items():
            self._look(name, part, batch)
        self._look("loss", result.loss, batch)
        return result.loss

    def _backward(self, batch: Batch, loss: Tensor) -> None:
        """Look at this rank's own gradients, before any sum over ranks, in the order in which they come.

        Nothing is accumulated: `torch.autograd.grad` leaves `.grad` and the engine's buffers alone.
        """
        seen: list[tuple[str, Tensor]] = []

        def noting(name: str) -> Callable[[Tensor], None]:
            return lambda gradient: seen.append((name, _peak(gradient)))

        handles = [value.register_hook(noting(name)) for name, value in self._parameters.items()]
        try:
            torch.autograd.grad(loss, list(self._parameters.values()), allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        for name, peak in seen:
            self._look(f"gradient of {name}", peak, batch)
            self._largest = max(self._largest, (float(peak), name))

    @contextmanager
    def _watched_outputs(self, batch: Batch) -> Iterator[None]:
        def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def look(module: nn.Module, inputs: Any, output: Any) -> None:
                for _, tensor in tensors_in(output):
                    self._look(f"output of {name}", tensor, batch)

            return look

        modules = self._task.module.named_modules()
        handles = [module.register_forward_hook(watch(name or "the model")) for name, module in modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def _look(self, name: str, tensor: Tensor, batch: Batch | None = None) -> None:
        self._looks += 1
        if self._found is None and not math.isfinite(float(_peak(tensor))):
            samples = f" (sample ids {listed(_samples(tensor, batch))})" if batch is not None else ""
            self._found = Finding(order=self._looks, text=name + samples)


def own_part(weight: Any) -> Tensor:
    """This rank's part of a weight that is divided over the ranks, else the weight itself.

    The parts of the last ranks end in padding, where the size is no multiple of their number: it holds whatever that
    memory held before, until something writes it.
    """
    part: Tensor | None = getattr(weight, "ds_tensor", None)
    if part is None:
        return weight
    before = part.numel() * dist.get_rank(weight.ds_process_group)
    return part[: max(0, weight.ds_numel - before)]


def _peak(tensor: Tensor) -> Tensor:
    """Largest absolute value; NaN if there is one. Takes no memory of the tensor's size."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return torch.zeros(())
    return torch.linalg.vector_norm(tensor.detach(), math.inf, dtype=torch.promote_types(tensor.dtype, torch.float32))


def _samples(tensor: Tensor, batch: Batch) -> list[str]:
    """Samples of the rows of a tensor that are not finite; of all, where rows are no samples or tokens."""
    owners = batch.row_owners(tensor.shape[0]) if tensor.ndim else None
    if owners is None:
        return list(batch.sample_ids)
    bad = ~torch.isfinite(tensor.detach().reshape(tensor.shape[0], -1)).all(1)
    indices = owners.to(bad.device)[bad].unique().tolist()
    return [batch.sample_ids[index] for index in indices]


def listed(names: Sequence[str]) -> str:
    """A few names on one line of any terminal."""
    shown = ["".join(c if c.isprintable() else repr(c)[1:-1] for c in name) for name in names[:NAMED_SAMPLES]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor within nested records, dictionaries and sequences, with its dotted name."""
    if isinstance(value, Tensor):
        yield name, value
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        parts = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = list(zip(value._fields, value, strict=True))
    elif isinstance(value, list | tuple):
        parts = [(str(index), part) for index, part in enumerate(value)]
    else:
        return
    for key, part in parts:
        yield from tensors_in(part, f"{name}.{key}" if name else key)
