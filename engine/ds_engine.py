"""Wrapping a task's model with DeepSpeed, starting from exactly the weights the task built."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from torch import Tensor

from engine.adamw import WholeAdamW
from engine.ds_config import build_ds_config
from engine.half import HalfForward
from engine.master_state import BUCKET_ELEMENTS, MasterState
from engine.param_groups import build_optimizer
from engine.protocols import RunConfig, StepResult, Task
from engine.recompute import layers_of, recompute, spread_evenly
from engine.runtime import Runtime


def build_engine(task: Task, config: RunConfig, runtime: Runtime) -> tuple[Any, MasterState]:
    """Return (DeepSpeed engine, named fp32 state) with the task's initial weights and an untouched AdamW.

    With ZeRO DeepSpeed derives its fp32 weights from the rounded bf16 ones, which is undone here: the start does not
    depend on precision or stage.
    """
    import deepspeed

    sharded = config.engine.zero_stage > 0
    named = task.module.named_parameters() if sharded else ()
    initial = {name: value.detach().to("cpu", copy=True) for name, value in named}
    again = spread_evenly(layers_of(task.module), config.engine.recompute)
    half = config.engine.precision == "bf16" and not sharded
    # Over ranks gradients are summed in fp32; a GPU's graph adds to fp32 ones that stay where they are.
    narrow = runtime.world_size == 1 and runtime.device.type == "cpu"
    module = HalfForward(task.module, again, narrow=narrow) if half else task.module
    recompute(again)
    # DeepSpeed prints memory tables while it builds its bf16 optimizer.
    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=build_optimizer(task, config.optim, sharded=sharded),
            config=build_ds_config(config, runtime.world_size),
            dist_init_required=False,
        )
    # At stage 0 DeepSpeed copies all gradients into one buffer and back, of a single rank too; see `backward`.
    engine.enable_backward_allreduce = sharded
    state = MasterState(engine, task.module)
    if sharded:
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

    There the gradients are whole, and averaged by the last backward.
    """
    optimizer = engine.basic_optimizer
    return optimizer.measure() if isinstance(optimizer, WholeAdamW) else None
