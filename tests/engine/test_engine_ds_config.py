from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from engine_fakes import tiny_config

from engine.ds_config import build_ds_config
from engine.errors import BatchArithmeticError


@pytest.mark.parametrize(("world_size", "accumulation"), [*itertools.product([1, 2, 4], [1, 2])])
def test_batch_identity(tmp_path: Path, world_size: int, accumulation: int) -> None:
    values = build_ds_config(tiny_config(tmp_path, accumulation=accumulation), world_size)
    parts = values["train_micro_batch_size_per_gpu"] * values["gradient_accumulation_steps"] * world_size
    assert values["train_batch_size"] == parts == 8


def test_quota_that_does_not_divide_is_named(tmp_path: Path) -> None:
    with pytest.raises(BatchArithmeticError, match=r"batch.per_step.all: 8 views .* use a multiple of 3") as caught:
        build_ds_config(tiny_config(tmp_path), 3)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("stage", range(4))
def test_reductions_and_accumulation_are_fp32(tmp_path: Path, stage: int) -> None:
    values = build_ds_config(tiny_config(tmp_path, zero_stage=stage, precision="bf16"), 2)
    assert values["communication_data_type"] == "fp32"
    assert values["zero_optimization"]["stage"] == stage
    # Without ZeRO DeepSpeed refuses an accumulation type other than the model's.
    assert values.get("data_types") == ({"grad_accum_dtype": "fp32"} if stage else None)
    assert "optimizer" not in values and "scheduler" not in values


def test_no_clipping_is_zero(tmp_path: Path) -> None:
    assert build_ds_config(tiny_config(tmp_path, max_grad_norm=None), 1)["gradient_clipping"] == 0.0
