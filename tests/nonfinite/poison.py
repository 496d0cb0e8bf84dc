"""The cases of R19, and how a value that is not finite gets into a run of the real tasks from outside.

Everything is patched on the objects of one run or wrapped around them; the product has no hook for this.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

STEPS = 5
BAD_STEP = 3  # the first is 1
VALUES = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
# Pre-training reads uint8 pixels and integers alone: none of its inputs can be other than finite.
PLACES = {
    "finetune": ("input", "activation", "loss", "gradient", "weight"),
    "pretrain": ("activation", "loss", "gradient", "weight"),
}
ACTIVATION = "blocks.1.attn"
GRADIENT = "blocks.0.attn.qkv.weight"
WEIGHT = "blocks.0.mlp.fc1.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One value in one place on one rank; `place` "none" leaves the bad step out instead, to compare with."""

    task: str
    place: str
    value: str
    rank: int
    stage: int
    precision: str
    # Steps that are bad, from BAD_STEP on, and how many may be skipped.
    bad_steps: int = 1
    skip: int = 1


def all_cases() -> list[Case]:
    """The whole matrix in a mixed order."""
    cases = [
        Case(task=task, place=place, value=value, rank=rank, stage=stage, precision=precision, bad_steps=bad_steps)
        for task, places in PLACES.items()
        for place, value, rank, stage, precision, bad_steps in itertools.product(
            places, VALUES, (0, 1), range(4), ("fp32", "bf16"), (1, 2)
        )
    ]
    random.Random(19).shuffle(cases)
    return cases


class Poison:
    """Puts a case's value into a task and its batches on the case's rank, in the bad steps alone."""

    def __init__(self, case: Case, rank: int) -> None:
        self.case = case
        self.value = VALUES[case.value]
        self.mine = rank == case.rank
        self.step = 0
        self.sample_ids: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        """Whether the step under way is to be spoiled on this rank."""
        return self.mine and BAD_STEP <= self.step < BAD_STEP + self.case.bad_steps

    def watch(self, batches: Any) -> None:
        """Follow the step number and spoil an input."""
        steps = batches.steps

        def watched(start: int) -> Iterator[list[Any]]:
            for step, micro_batches in enumerate(steps(start), start + 1):
                self.step = step
                if step == BAD_STEP:
                    self.sample_ids = micro_batches[0].sample_ids
                if self.active and self.case.place == "input":
                    micro_batches = [self._spoiled_input(micro_batches[0]), *micro_batches[1:]]
                if self.active and self.case.place == "weight":
                    self._spoil_weight()
                self._spoil_padding()
                yield micro_batches

        batches.steps = watched

    def enter(self, task: Any) -> None:
        """Spoil what a task computes."""
        self.module: nn.Module = task.module
        if self.case.place == "activation":
            _named(task.module.named_modules(), ACTIVATION).register_forward_hook(self._spoil_output)
        if self.case.place == "gradient":
            _named(task.module.named_parameters(), GRADIENT).register_hook(self._spoiled_gradient)
        if self.case.place == "loss":
            forward = task.forward

            def spoiled(*arguments: Any) -> Any:
                result = forward(*arguments)
                return dataclasses.replace(result, loss=result.loss + self.value) if self.active else result

            task.forward = spoiled

    def _spoiled_input(self, batch: Any) -> Any:
        factors = batch.drop_path_keep.clone()
        factors[0, 0] = self.value
        return dataclasses.replace(batch, drop_path_keep=factors)

    def _spoil_output(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        if not self.active:
            return None
        spoiled = output.clone()
        spoiled[-1, 0] = self.value
        return spoiled

    def _spoiled_gradient(self, gradient: Tensor) -> Tensor:
        if not self.active:
            return gradient
        spoiled = gradient.clone()
        spoiled.view(-1)[1] = self.value
        return spoiled

    @torch.no_grad()
    def _spoil_weight(self) -> None:
        parameter: Any = _named(self.module.named_parameters(), WEIGHT)
        for tensor in (parameter.data, getattr(parameter, "ds_tensor", parameter.data)):
            if tensor.numel():
                tensor.view(-1)[1] = self.value

    @torch.no_grad()
    def _spoil_padding(self) -> None:
        # ZeRO-3 leaves whatever memory held before in the padding of its parts: nothing may be read into it.
        for parameter in self.module.parameters():
            part: Any = getattr(parameter, "ds_tensor", None)
            if part is not None:
                before = part.numel() * dist.get_rank()
                part[max(0, parameter.ds_numel - before) :] = float("nan")

    def expected(self) -> str:
        """What the log must name after the rank; the sample is the one whose row was spoiled."""
        if self.case.place == "none" or not self.sample_ids:
            return ""
        everything = ", ".join(self.sample_ids)
        return {
            "input": f"input drop_path_keep (sample ids {everything})",
            "activation": f"output of {self._full(ACTIVATION)} (sample ids {self.sample_ids[-1]})",
            "loss": f"loss (sample ids {everything})",
            "gradient": f"gradient of {self._full(GRADIENT)} (sample ids {everything})",
            "weight": f"weight {self._full(WEIGHT)}",
        }[self.case.place]

    def _full(self, end: str) -> str:
        names = [name for name, _ in (*self.module.named_modules(), *self.module.named_parameters())]
        return next(name for name in names if name.endswith(end))


def _named(entries: Any, end: str) -> Any:
    return next(value for name, value in entries if name.endswith(end))
