"""Logits with the classes' prior in the training loss: formula, gradient, what it leaves alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.errors import DataError, UsageError
from s4d.tasks import build_task, restore_task
from s4d.tasks.finetune import FinetuneTask

CPU = torch.device("cpu")
WEIGHTS = {"image": 0.3, "video": 0.7}
CLASSES = {"faces": ("a", "b", "c"), "clips": ("p", "q", "r", "s")}
PRIORS = {"faces": (0.7, 0.2, 0.1), "clips": (0.1, 0.2, 0.3, 0.4)}
EVEN = {"faces": (1 / 3,) * 3, "clips": (1 / 4,) * 4}


@pytest.fixture
def adjusted(config_of: Callable[..., Config]) -> Callable[..., FinetuneTask]:
    def build(tau: float, priors: dict[str, tuple[float, ...]] | None = None) -> FinetuneTask:
        config = config_of(loss={"logit_adjustment": tau})
        known: dict[str, Any] = {} if priors is None else {"class_priors": priors}
        task = FinetuneTask(config, WEIGHTS, CLASSES, rank=0, world_size=1, device=CPU, **known)
        task.module.double()
        return task

    return build


def test_the_formula(adjusted: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]) -> None:
    """Soft targets against logits + tau log prior; the hits are those of the logits themselves."""
    task, batch = adjusted(1.5, PRIORS), batch_of()
    found = task.forward(task.module, batch)
    logits = task.module(batch).logits
    for head, modality in zip(batch.heads, ("image", "video"), strict=True):
        prior = torch.tensor(PRIORS[head.head], dtype=torch.float64)
        plain = logits[head.head][head.sequences]
        expected = cross_entropy(plain + 1.5 * prior.log(), head.targets.double())
        torch.testing.assert_close(found.parts[f"loss/{modality}"], expected.detach())
        hits = (plain.argmax(1) == head.targets.argmax(1)).double().mean()
        assert found.metrics[f"accuracy/{modality}"] == hits


def test_gradient_of_a_head(adjusted: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]) -> None:
    """The bias gets softmax(logits + tau log prior) - target, weighted and averaged: by hand for the faces."""
    task, batch = adjusted(1.0, PRIORS), batch_of()
    task.forward(task.module, batch).loss.backward()
    faces = batch.heads[0]
    logits = task.module(batch).logits["faces"][faces.sequences].detach()
    joint = logits.exp() * torch.tensor(PRIORS["faces"], dtype=torch.float64)
    expected = 0.3 * (joint / joint.sum(1, keepdim=True) - faces.targets).mean(0)
    torch.testing.assert_close(task.module.get_parameter("head.faces.bias").grad, expected)


def test_off_and_even_classes_change_nothing(
    adjusted: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]
) -> None:
    off, batch = adjusted(0.0), batch_of()
    ignored, even = adjusted(0.0, PRIORS), adjusted(1.0, EVEN)
    loss = off.forward(off.module, batch).loss
    assert torch.equal(loss, ignored.forward(ignored.module, batch).loss)
    torch.testing.assert_close(loss, even.forward(even.module, batch).loss, rtol=1e-12, atol=0)
    states = [task.module.state_dict() for task in (off, even)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_cutting_a_step_changes_nothing(
    adjusted: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]
) -> None:
    task = adjusted(1.0, PRIORS)
    step = {"image": 2, "video": 2}
    batches = [batch_of(range(i, i + 1), range(i, i + 1), step_samples=step) for i in range(2)]
    statistics = task.begin_step(task.module, batches)
    split = sum(task.forward(task.module, batch, statistics).loss for batch in batches)
    torch.testing.assert_close(split, task.forward(task.module, batch_of()).loss, rtol=1e-10, atol=0)


def test_an_idle_head_still_has_a_gradient(
    adjusted: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]
) -> None:
    task = adjusted(1.0, PRIORS)
    task.forward(task.module, batch_of(clips=range(0), step_samples={"image": 2, "video": 0})).loss.backward()
    assert all(parameter.grad is not None for parameter in task.module.parameters())
    assert not task.module.get_parameter("head.clips.weight").grad.any()  # type: ignore[union-attr]


def test_a_task_is_restored_with_its_priors(
    adjusted: Callable[..., FinetuneTask], batch_of: Callable[..., PackedBatch]
) -> None:
    task, batch = adjusted(1.0, PRIORS), batch_of()
    described = json.loads(json.dumps(task.describe()))
    again = restore_task(task.config, described, device=CPU)
    again.module.double()
    assert torch.equal(task.forward(task.module, batch).loss, again.forward(again.module, batch).loss)
    assert "class_priors" not in adjusted(0.0).describe()
    with pytest.raises(DataError, match="class_priors"):
        restore_task(task.config, adjusted(0.0).describe(), device=CPU)
    with pytest.raises(ValueError, match="head clips"):
        adjusted(1.0, {"faces": PRIORS["faces"]})


def test_a_run_takes_them_from_its_training_split(config_of: Callable[..., Config], manifests: Path) -> None:
    """Of the faces' two training samples one is an a, one a b; no sample is a c."""

    def build(**source: object) -> FinetuneTask:
        faces = {"name": "faces", "modality": "image", "manifest": str(manifests / "faces.csv"), **source}
        config = config_of(
            mode="single",
            data={"sources": [faces], "workers": 0},
            batch={"per_step": {"faces": 2}},
            loss={"logit_adjustment": 1.0},
        )
        task = build_task(config, rank=0, world_size=1, device=CPU)
        assert isinstance(task, FinetuneTask)
        return task

    assert build(classes=["a", "b"]).class_priors == {"faces": [0.5, 0.5]}
    with pytest.raises(UsageError, match="class 'c' of head faces has no training sample"):
        build()
