"""One rank of `s4d bench zero`: what it holds between and within steps and what it sends, measured.

Started by `s4d.cli.bench_zero` as `python -m s4d.cli.bench_zero_rank CASES SHAPE FILE`, cases and shape in JSON, with
the variables of a launcher; rank 0 writes a list of findings, one for each case. Memory is counted by the storages of
all tensors that the process holds.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from engine.ds_engine import backward, build_engine
from engine.ema import MovingAverage
from engine.failure import leave
from engine.footprint import Case
from engine.runtime import Runtime, start_runtime
from s4d.analysis.bench_step import StepShape, random_batch
from s4d.cli.collectives import Traffic
from s4d.models.build import build_pretrain

# Step 1 of ZeRO 3 records the order of the modules; from step 3 on all steps are alike.
STEPS = 3
EMA_DECAY = 0.9


class PretrainStep(nn.Module):
    """The pre-training model whose forward is the loss of a batch."""

    def __init__(self, shape: StepShape) -> None:
        super().__init__()
        self.model = build_pretrain(shape.architecture(), 0, {})

    def forward(self, batch: Any) -> Tensor:
        sums: dict[str, Tensor] = self.model(batch)
        return torch.stack(list(sums.values())).sum() / batch.masked_indices.shape[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """As much of a task as the engine needs to build its optimizer."""

    module: nn.Module
    num_layers: int = 0

    def layer_of(self, parameter_name: str) -> None:
        return None

    def lr_multiplier(self, parameter_name: str) -> float:
        return 1.0


def run_config(case: Case) -> Any:
    """The sections of a configuration that decide how DeepSpeed lays a model out."""
    return SimpleNamespace(
        batch=SimpleNamespace(per_step={"images": case.world_size * case.accumulation}, accumulation=case.accumulation),
        engine=SimpleNamespace(
            zero_stage=case.stage, precision=case.precision, offload=case.offload, step_graph="auto", recompute=0.0
        ),
        optim=SimpleNamespace(
            lr=1e-4,
            betas=(0.9, 0.95),
            eps=1e-8,
            weight_decay=0.05,
            decay_rule="matrices",
            layer_decay=1.0,
            max_grad_norm=1.0,
        ),
    )


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Address -> bytes of every distinct piece of memory behind some tensors."""
    pieces = (tensor.untyped_storage() for tensor in tensors)
    return {piece.data_ptr(): piece.nbytes() for piece in pieces if piece.nbytes()}


def all_tensors() -> list[Tensor]:
    """Every tensor that Python holds in this process."""
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, Tensor)]


class Ledger:
    """Divides the memory of this process into what it is for; each piece counts once, for the first that names it."""

    def __init__(self, engine: Any, state: Any, average: MovingAverage, before: list[Tensor]) -> None:
        self._engine = engine
        self._state = state
        self._average = average
        # Kept alive, so that nothing new can lie at their addresses.
        self._before = before

    def take(self) -> dict[str, int]:
        """Bytes by purpose."""
        optimizer = self._engine.optimizer
        parameters = list(self._engine.module.parameters())
        named = {
            "weights": [*parameters, *_below(parameters, "ds_tensor"), *_inside(optimizer, WEIGHTS)],
            "masters": self._state.shards,
            "moments": [*self._state.moments("exp_avg"), *self._state.moments("exp_avg_sq")],
            "ema": self._average.shards,
            "gradients": [
                *_below(parameters, "grad"),
                *_below(parameters, "grad_accum"),
                *_below(self._state.shards, "grad"),
                *_inside(optimizer, GRADIENTS),
            ],
        }
        left = storages(all_tensors())
        for address in storages(self._before):
            left.pop(address, None)
        found = {}
        for purpose, tensors in named.items():
            pieces = storages(tensors)
            found[purpose] = sum(left.pop(address, 0) for address in pieces)
        found["buffers"] = sum(left.values())
        return found


# Where DeepSpeed's optimizers keep tensors, by attribute.
WEIGHTS = ("bit16_groups_flat", "bf16_groups_flat", "lp_param_buffer", "param_groups_fp16_flat_cpu_memory")
GRADIENTS = (
    "averaged_gradients",
    "grad_partitions_flat_buffer",
    "fp32_groups_gradients_flat",
    "accumulated_grads_in_cpu",
)


def _below(tensors: Iterable[Any], attribute: str) -> list[Tensor]:
    values = (getattr(tensor, attribute, None) for tensor in tensors)
    return [value for value in values if value is not None]


def _inside(owner: Any, attributes: Iterable[str]) -> list[Tensor]:
    return [tensor for name in attributes for tensor in _flatten(getattr(owner, name, None))]


def _flatten(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _flatten(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _flatten(each)


def measure(case: Case, shape: StepShape, runtime: Runtime, traffic: Traffic) -> dict[str, Any]:
    """One case: memory between steps, after the forward and before the update, and the messages of one step."""
    batch = random_batch(shape, shape.architecture())
    work = Work(module=PretrainStep(shape))
    parameters = {id(parameter) for parameter in work.module.parameters()}
    before = [tensor for tensor in all_tensors() if id(tensor) not in parameters]
    engine, state = build_engine(work, run_config(case), runtime)  # type: ignore[arg-type]
    ledger = Ledger(engine, state, MovingAverage(state, EMA_DECAY), before)
    memory = {}
    for step in range(STEPS):
        traffic.take()
        for micro in range(case.accumulation):
            last = step + 1 == STEPS and micro + 1 == case.accumulation
            loss = engine(batch)
            if last:
                memory["forward"] = ledger.take()
            backward(engine, SimpleNamespace(loss=loss), world_size=case.world_size)
            del loss
            if last:
                memory["backward"] = ledger.take()
            engine.step()
    messages = traffic.take()
    between = ledger.take()
    engine.destroy()
    return {
        "case": case.as_dict(),
        "sizes": [torch.Size(each).numel() for each in state.shapes.values()],
        "memory": {
            **between,
            "gathered": memory["forward"]["weights"],
            "gradients": memory["backward"]["gradients"],
        },
        "traffic": messages,
    }


def main(cases: list[dict[str, Any]], shape: StepShape, target: Path) -> None:
    """Measure all cases one after another."""
    traffic = Traffic()
    traffic.watch()
    runtime = start_runtime()
    found = [measure(Case(**case), shape, runtime, traffic) for case in cases]
    if runtime.rank == 0:
        target.write_text(json.dumps(found))
    runtime.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), StepShape(**json.loads(sys.argv[2])), Path(sys.argv[3]))
    leave(0)
