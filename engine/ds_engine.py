"""Wrapping a task's model with DeepSpeed, starting from exactly the weights the task built."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
from torch import Tensor

from engine.ds_config import build_ds_config
from engine.half import HalfForward
from engine.master_state import BUCKET_ELEMENTS, MasterState
from engine.param_groups import build_optimizer
from engine.protocols import RunConfig, StepResult, Task
from engine.recompute import layers_of, recompute, spread_evenly
from engine.runtime import Runtime


def build_engine(task: Task, config: RunConfig, runtime: Runtime) -> tuple[Any, MasterState]:
    """Return (DeepSpeed engine, named fp32 state) with the task's initial weights and an untouched AdamW.

    DeepSpeed derives its fp32 weights from the rounded bf16 ones, which is undone here, so that the start does not
    depend on precision or stage.
    """
    import deepspeed

    initial = {name: value.detach().to("cpu", copy=True) for name, value in task.module.named_parameters()}
    again = spread_evenly(layers_of(task.module), config.engine.recompute)
    without_zero_in_half = config.engine.zero_stage == 0 and config.engine.precision == "bf16"
    module = HalfForward(task.module, again) if without_zero_in_half else task.module
    recompute(again)
    # DeepSpeed prints memory tables while it builds its bf16 optimizer.
    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=build_optimizer(task, config.optim),
            config=build_ds_config(config, runtime.world_size),
            dist_init_required=False,
        )
    # At stage 0 DeepSpeed copies all gradients into one buffer and back, of a single rank too; see `backward`.
    engine.enable_backward_allreduce = config.engine.zero_stage > 0
    state = MasterState(engine, task.module)
    state.scatter(state.shards, initial.__getitem__)
    state.reset_optimizer(step=0)
    state.push()
    return engine, state


def backward(engine: Any, result: StepResult, *, world_size: int, reduce: bool = True) -> None:
    """Back-propagate a loss share: DeepSpeed averages over ranks and accumulation, shares are to be summed.

    Without `reduce`, which ZeRO cannot do without, `reduce_gradients` is to follow the last micro batch of a step.
    """
    with contextlib.nullcontext() if reduce else engine.no_sync():
        engine.backward(result.loss * (world_size * engine.gradient_accumulation_steps()))
    if reduce and not engine.enable_backward_allreduce:
        reduce_gradients(engine, world_size=world_size)


def reduce_gradients(engine: Any, *, world_size: int) -> None:
    """Average the gradients over ranks, unless micro batches of the step are still to come; without ZeRO."""
    if world_size > 1:
        engine.allreduce_gradients(bucket_size=BUCKET_ELEMENTS)


def norm_before_step(engine: Any) -> Tensor | None:
    """Global gradient norm before clipping where DeepSpeed keeps none (without ZeRO); None elsewhere.

    There the gradients are whole, and averaged by the last backward. After the step only the clipped ones are left.
    """
    if type(engine.optimizer) is not torch.optim.AdamW:
        return None
    return torch.nn.utils.get_total_norm([value.grad for value in engine.module.parameters() if value.grad is not None])
