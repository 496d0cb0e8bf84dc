"""The motion term in pre-training: its weight and normaliser, and steps without a clip."""

from __future__ import annotations

from collections.abc import Callable

import torch

from s4d.data.batch import PackedBatch
from s4d.tasks.pretrain import PretrainTask

MASKED = {"image": 3, "video": 6}
STEP = {"image": 2, "video": 2}


def test_it_is_a_mean_over_the_clips_tokens(
    task_of: Callable[..., PretrainTask], batch_of: Callable[..., PackedBatch]
) -> None:
    plain, task, batch = task_of("pretrain"), task_of("pretrain", loss={"motion": 0.5}), batch_of(masked=MASKED)
    found, before = task.forward(task.module, batch), plain.forward(plain.module, batch)
    mean = task.module(batch, motion=True)["motion"].detach() / (2 * MASKED["video"])
    torch.testing.assert_close(found.parts["motion/video"], mean)
    torch.testing.assert_close(found.loss, before.loss + 0.7 * 0.5 * mean)
    assert set(before.parts) == {"loss/image", "loss/video"}
    assert all(torch.equal(found.parts[name], part) for name, part in before.parts.items())
    states = [each.module.state_dict() for each in (plain, task)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_shares_of_micro_batches_add_up(
    task_of: Callable[..., PretrainTask], batch_of: Callable[..., PackedBatch]
) -> None:
    task = task_of("pretrain", loss={"motion": 0.5})
    parts = [batch_of(range(i, i + 1), range(i, i + 1), masked=MASKED, step_samples=STEP) for i in range(2)]
    split = torch.stack([task.forward(task.module, part).loss for part in parts]).sum()
    torch.testing.assert_close(split, task.forward(task.module, batch_of(masked=MASKED)).loss, rtol=1e-10, atol=0)


def test_a_step_of_stills_has_none(task_of: Callable[..., PretrainTask], batch_of: Callable[..., PackedBatch]) -> None:
    task, plain = task_of("pretrain", loss={"motion": 0.5}), task_of("pretrain")
    batch = batch_of(clips=range(0), masked=MASKED, step_samples={"image": 2, "video": 0})
    found = task.forward(task.module, batch)
    assert set(found.parts) == {"loss/image"}
    assert torch.equal(found.loss, plain.forward(plain.module, batch).loss)
    found.loss.backward()
    assert all(parameter.grad is not None for parameter in task.module.parameters())
