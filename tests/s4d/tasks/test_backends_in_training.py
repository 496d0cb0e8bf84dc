"""Training with the chosen kernels beside training with their definitions: no further from float64 than these."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.models.backends import OPS
from s4d.tasks.finetune import FinetuneTask
from s4d.tasks.pretrain import PretrainTask

WEIGHTS = {"image": 0.3, "video": 0.7}
CLASSES = {"faces": ("a", "b", "c"), "clips": ("p", "q", "r", "s")}
MASKED = {"image": 2, "video": 5}
# Relative gap allowed between a loss and the same one in float64; where more steps take the definitions in float32
# further than this, their distance. Two roundings of one run may part by twice that (3.3e-6 measured after 200 steps,
# with the definitions 3.2e-6 and the chosen kernels 0.9e-6 from float64), so they are not compared with each other.
GAP = 1e-6

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# The interpreter takes four seconds a step.
TRITON_STEPS = 200 if DEVICE.type == "cuda" else 30

KERNELS = [op for op in OPS if op != "blocks"]
DEFINITIONS = {**dict.fromkeys(KERNELS, "reference"), "blocks": "plain"}
TRITON = dict.fromkeys(KERNELS, "triton")


def losses(
    config_of: Callable[..., Config],
    batch_of: Callable[..., PackedBatch],
    task_name: str,
    backends: dict[str, str],
    *,
    steps: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device = DEVICE,
) -> torch.Tensor:
    """Loss of each step of AdamW over a dozen samples of each kind, (steps,) float64."""
    config = config_of(task_name, engine={"steps": steps, "precision": "fp32", "backends": backends})
    task: PretrainTask | FinetuneTask
    if task_name == "pretrain":
        task = PretrainTask(config, WEIGHTS, {}, rank=0, world_size=1, device=device)
    else:
        task = FinetuneTask(config, WEIGHTS, CLASSES, rank=0, world_size=1, device=device)
    task.module.to(device, dtype)
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05)
    found = []
    for step in range(steps):
        numbers = range(2 * (step % 6), 2 * (step % 6) + 2)
        masked = MASKED if task_name == "pretrain" else None
        batch = batch_of(numbers, numbers, masked=masked, drop_path=0.0 if masked else 0.1).to(device)
        statistics = task.begin_step(task.module, [batch])
        loss = task.forward(task.module, batch, statistics).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.detach().double().cpu())
    return torch.stack(found)


def gap(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float(((ours - theirs) / theirs).abs().max())


def compare_runs(config_of: object, batch_of: object, task: str, backends: dict[str, str], steps: int) -> None:
    """Both runs in float32 against the definitions in float64."""
    definition = losses(config_of, batch_of, task, DEFINITIONS, steps=steps)
    exact = losses(config_of, batch_of, task, DEFINITIONS, steps=steps, dtype=torch.float64, device=torch.device("cpu"))
    ours = losses(config_of, batch_of, task, backends, steps=steps)
    figures = (
        f"gap {gap(ours, definition):.2e}; to float64: {gap(ours, exact):.2e}, definitions {gap(definition, exact):.2e}"
    )
    print(f"{task}, {steps} steps: {figures}")
    assert float(exact[-5:].mean()) < float(exact[:5].mean()), "nothing was learned, so nothing was tried"
    assert gap(ours, exact) <= max(GAP, gap(definition, exact)), figures


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_automatic_choice_trains_like_the_definitions(
    config_of: Callable[..., Config], batch_of: Callable[..., PackedBatch], task: str
) -> None:
    compare_runs(config_of, batch_of, task, {}, 50)


@pytest.mark.deep
@pytest.mark.parametrize("backends", [{}, TRITON], ids=["automatic", "triton"])
@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_longer_training(
    config_of: Callable[..., Config], batch_of: Callable[..., PackedBatch], task: str, backends: dict[str, str]
) -> None:
    missing = [op for op, name in backends.items() if name not in OPS[op]]
    if missing:
        pytest.skip(f"no Triton backend of {', '.join(missing)}")
    compare_runs(config_of, batch_of, task, backends, TRITON_STEPS if backends else 200)
