"""Shared experts and modality priors in a task: rates, gradients, what a checkpoint says, and losses cut into parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.models.folder import write_folder
from s4d.models.sizes import Architecture
from s4d.tasks.finetune import FinetuneTask

ADDED = {"shared_experts": 2, "modality_prior": True}
STEP = {"image": 2, "video": 2}


def fill_priors(task: FinetuneTask) -> None:
    with torch.no_grad():
        for name, parameter in task.module.named_parameters():
            if name.endswith("modality_bias"):
                parameter.normal_()


def test_they_count_as_experts(task_of: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]) -> None:
    task = task_of(moae={**ADDED, "lr_multiplier": 5.0})
    task.forward(task.module, batch_of(clips=range(0), step_samples={"image": 2, "video": 0})).loss.backward()
    assert all(parameter.grad is not None for parameter in task.module.parameters())
    for kind in ("shared.fc1_weight", "modality_bias"):
        assert task.lr_multiplier(f"blocks.1.moae.{kind}") == 5.0 and task.layer_of(f"blocks.1.moae.{kind}") is None
    shared = task.module.get_parameter("blocks.1.moae.shared.fc1_weight")
    assert shared.shape == (2 * 16, 64) and shared.grad is not None and shared.grad.any()


def test_a_step_is_the_same_however_it_is_cut(
    task_of: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]
) -> None:
    """With drop path, router noise and the balance of the whole step."""
    task = task_of(moae={**ADDED, "balance_weight": 0.5})
    fill_priors(task)
    whole = task.forward(task.module, batch_of(drop_path=0.3)).loss
    batches = [batch_of(range(i, i + 1), range(i, i + 1), drop_path=0.3, step_samples=STEP) for i in range(2)]
    statistics = task.begin_step(task.module, batches)
    parts = [task.forward(task.module, batch, statistics).loss for batch in batches]
    torch.testing.assert_close(torch.stack(parts).sum(), whole, rtol=1e-10, atol=0)


def test_a_checkpoint_knows_them(
    task_of: Callable[..., FinetuneTask], config_of: Callable[..., Config], tmp_path: Path
) -> None:
    """A model of the same kind takes all of them over; one without leaves them out."""
    task = task_of(moae=ADDED)
    fill_priors(task)
    described = json.loads(json.dumps(task.describe()))
    assert Architecture.from_dict(described["architecture"]) == task.arch
    folder = tmp_path / "weights"
    state = {name: value.float() for name, value in task.module.state_dict().items()}
    write_folder(folder, state, described)
    again = task_of(moae=ADDED, seed=9, model={"init_from": str(folder)})
    for name, value in state.items():
        assert torch.equal(again.module.get_parameter(name).float(), value), name
    plain = task_of(seed=9, model={"init_from": str(folder)})
    assert torch.equal(
        plain.module.get_parameter("blocks.1.moae.fc1_weight").float(), state["blocks.1.moae.fc1_weight"]
    )
    assert not any("shared" in name or "modality" in name for name, _ in plain.module.named_parameters())
