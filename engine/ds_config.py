"""The DeepSpeed dictionary of a run: a pure function of the configuration and the world size."""

from __future__ import annotations

from typing import Any

from engine.errors import BatchArithmeticError
from engine.protocols import RunConfig

# Elements of the buffer in which DeepSpeed collects gradients before it reduces them. Its default holds 2 GB.
REDUCE_BUCKET = 1 << 24
# What engine.offload moves to host memory, in DeepSpeed's words.
OFFLOAD: dict[str, tuple[str, ...]] = {
    "none": (),
    "optimizer": ("offload_optimizer",),
    "parameters": ("offload_optimizer", "offload_param"),
}


def micro_batch_size(config: RunConfig, world_size: int) -> int:
    """Views of one micro batch on one rank; BatchArithmeticError names the source whose quota does not divide."""
    parts = world_size * config.batch.accumulation
    for source, quota in config.batch.per_step.items():
        if quota % parts:
            raise BatchArithmeticError(
                f"batch.per_step.{source}: {quota} views do not divide over {world_size} ranks x "
                f"{config.batch.accumulation} accumulation steps; use a multiple of {parts}"
            )
    return sum(config.batch.per_step.values()) // parts


def build_ds_config(config: RunConfig, world_size: int) -> dict[str, Any]:
    """Dictionary for `deepspeed.initialize`: no scheduler or optimizer section, reductions in fp32.

    Gradients accumulate in fp32 too.
    """
    micro = micro_batch_size(config, world_size)
    accumulation = config.batch.accumulation
    stage = config.engine.zero_stage
    values: dict[str, Any] = {
        "train_batch_size": micro * accumulation * world_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        # Without ZeRO it is the update that clips, see `engine.adamw`.
        "gradient_clipping": config.optim.max_grad_norm or 0.0 if stage > 0 else 0.0,
        "communication_data_type": "fp32",
        "steps_per_print": None,
        # It prints nothing without steps_per_print, and waits for the device twice in each step.
        "timers": {"throughput": {"enabled": False}},
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": False,
            "reduce_bucket_size": REDUCE_BUCKET,
            # DeepSpeed's own linear replaces torch's for the whole process and is not needed with our autograd ops.
            "memory_efficient_linear": False,
            # Pinned, so that a GPU copies gradients out and weights in at full speed.
            **{place: {"device": "cpu", "pin_memory": True} for place in OFFLOAD[config.engine.offload]},
        },
        # torch's AdamW serves shards in host memory as well; DeepSpeed's own would be compiled at the first start.
        "zero_force_ds_cpu_optimizer": False,
    }
    # Without ZeRO it is the model that rounds, see `engine.half`.
    if config.engine.precision == "bf16" and stage > 0:
        values["bf16"] = {"enabled": True}
        values["data_types"] = {"grad_accum_dtype": "fp32"}
    return values
