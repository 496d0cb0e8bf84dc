from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from s4d.data.batch import PackedBatch
from s4d.errors import UsageError
from s4d.tasks.pretrain import PretrainTask

MASKED = {"image": 3, "video": 6}
STEP = {"image": 2, "video": 2}
DECODED = {"image": 2, "video": 3}


@pytest.fixture
def task(task_of: Callable[..., PretrainTask]) -> PretrainTask:
    return task_of("pretrain")


def loss_and_gradients(task: PretrainTask, *batches: PackedBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    task.module.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        loss = task.forward(task.module, batch, task.begin_step(task.module, [batch])).loss
        loss.backward()
        total += loss.detach()
    return total, {name: p.grad.clone() for name, p in task.module.named_parameters() if p.grad is not None}


def test_packed_equals_separate(task: PretrainTask, batch_of: Callable[..., PackedBatch]) -> None:
    """Loss and gradients of one packed step are the weighted sums of those of single-modality steps."""
    packed, gradients = loss_and_gradients(task, batch_of(masked=MASKED))
    alone = [batch_of(clips=range(0), masked=MASKED), batch_of(images=range(0), masked=MASKED)]
    means = [task.module(batch)[name] / (2 * MASKED[name]) for batch, name in zip(alone, MASKED, strict=True)]
    expected = 0.3 * means[0] + 0.7 * means[1]
    torch.testing.assert_close(packed, expected.detach(), rtol=1e-10, atol=0)
    task.module.zero_grad()
    expected.backward()
    for name, parameter in task.module.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-10, atol=1e-12)


def test_shares_of_micro_batches_add_up(task: PretrainTask, batch_of: Callable[..., PackedBatch]) -> None:
    whole, gradients = loss_and_gradients(task, batch_of(masked=MASKED))
    parts = [
        batch_of(range(1), range(1), masked=MASKED, step_samples=STEP),
        batch_of(range(1, 2), range(1, 2), masked=MASKED, step_samples=STEP),
    ]
    split, split_gradients = loss_and_gradients(task, *parts)
    torch.testing.assert_close(whole, split, rtol=1e-10, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, split_gradients[name], rtol=1e-10, atol=1e-12)


def test_parts_are_unweighted_means(task: PretrainTask, batch_of: Callable[..., PackedBatch]) -> None:
    output = task.forward(task.module, batch_of(masked=MASKED))
    parts = output.parts
    assert set(parts) == {"loss/image", "loss/video"}
    torch.testing.assert_close(output.loss, 0.3 * parts["loss/image"] + 0.7 * parts["loss/video"])
    assert 0.9 < parts["loss/image"] < 1.3


def test_the_loss_falls(task: PretrainTask, batch_of: Callable[..., PackedBatch]) -> None:
    batch = batch_of(masked=MASKED)
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        loss = task.forward(task.module, batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


def test_layers(task: PretrainTask) -> None:
    layers = {name: task.layer_of(name) for name, _ in task.module.named_parameters()}
    assert layers["encoder.patch_embed.proj.weight"] == 0
    assert layers["encoder.blocks.2.attn.q_bias"] == 3
    assert layers["encoder.norm.weight"] == task.num_layers == 4
    assert layers["mask_token"] is layers["decoder.blocks.0.norm1.bias"] is layers["encoder_to_decoder.weight"] is None


def test_reconstructions(task_of: Callable[..., PretrainTask], manifests: Path, tmp_path: Path) -> None:
    task = task_of("pretrain", manifests=manifests)
    assert task.finish(task.module, tmp_path, "last") == {}
    task.finish(task.module, tmp_path, "ema")
    assert task.module.training
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reconstructions-ema.npz", "reconstructions.npz"]
    with np.load(tmp_path / "reconstructions.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            f"{modality}_{kind}": shape
            for modality, shape in (("image", (8, 1, 32, 32, 3)), ("video", (3, 4, 32, 32, 3)))
            for kind in ("input", "masked", "prediction")
        }
        for modality, hidden in (("image", 3 / 4), ("video", 7 / 8)):
            grey = (arrays[f"{modality}_masked"] == 128).all(-1)
            assert abs(grey.mean() - hidden) < 0.02
            shown = ~grey
            assert np.array_equal(arrays[f"{modality}_input"][shown], arrays[f"{modality}_prediction"][shown])
            assert not np.array_equal(arrays[f"{modality}_input"], arrays[f"{modality}_prediction"])


def test_a_perfect_prediction_restores_the_pixels(task: PretrainTask, batch_of: Callable[..., PackedBatch]) -> None:
    from kernels.reconstruction import patch_targets
    from s4d.tasks.reconstructions import complete, to_bytes

    for batch in (batch_of(images=range(0)), batch_of(clips=range(0))):
        pixels = batch.groups[0].pixels
        targets = patch_targets(pixels, torch.arange(batch.positions.shape[0]), 16, 2)
        hidden = torch.zeros(targets.shape[0], dtype=torch.bool)
        completed = complete(pixels, targets, hidden, task.arch)["prediction"]
        assert np.array_equal(to_bytes(completed), pixels.numpy())


def test_uneven_masks_are_refused(task: PretrainTask, batch_of: Callable[..., PackedBatch]) -> None:
    import dataclasses

    batch = batch_of(clips=range(0), masked=MASKED)
    shown = torch.cat((batch.visible_indices, batch.masked_indices[:1])).sort().values
    uneven = dataclasses.replace(
        batch,
        visible_indices=shown,
        masked_indices=batch.masked_indices[1:],
        cu_seqlens_visible=torch.tensor([0, 2, 3], dtype=torch.int32),
        max_seqlen_visible=2,
        layout_visible=((1, 2), (1, 1)),
    )
    with pytest.raises(ValueError, match="one number of masked tokens"):
        task.forward(task.module, uneven)


@pytest.mark.parametrize("decoder", ["joint", "cross"])
def test_the_loss_is_a_mean_over_the_tokens_that_are_asked_for(
    task_of: Callable[..., PretrainTask], batch_of: Callable[..., PackedBatch], decoder: str
) -> None:
    task, batch = task_of("pretrain", model={"decoder": decoder}), batch_of(masked=MASKED, decoded=DECODED)
    sums = task.module(batch)
    expected = 0.3 * sums["image"] / (2 * 2) + 0.7 * sums["video"] / (2 * 3)
    torch.testing.assert_close(task.forward(task.module, batch).loss, expected, rtol=1e-12, atol=0)
    whole, gradients = loss_and_gradients(task, batch)
    parts = [
        batch_of(range(1), range(1), masked=MASKED, decoded=DECODED, step_samples=STEP),
        batch_of(range(1, 2), range(1, 2), masked=MASKED, decoded=DECODED, step_samples=STEP),
    ]
    split, split_gradients = loss_and_gradients(task, *parts)
    torch.testing.assert_close(whole, split, rtol=1e-10, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, split_gradients[name], rtol=1e-10, atol=1e-12)


def test_a_share_that_leaves_nothing_to_predict_is_refused(task_of: Callable[..., PretrainTask]) -> None:
    sources = [{"name": "faces", "modality": "image", "manifest": "nowhere.csv"}]
    data = {"sources": sources, "mask_ratio": {"image": 0.5}, "decode_ratio": {"image": 0.4}}
    with pytest.raises(UsageError, match=r"^data\.decode_ratio\.image: 0\.4 leaves 0 of 2 masked tokens to predict$"):
        task_of("pretrain", data=data, batch={"per_step": {"faces": 2}})


def test_the_decoder_is_written_into_checkpoints(task_of: Callable[..., PretrainTask]) -> None:
    task = task_of("pretrain", model={"decoder": "cross"})
    assert task.describe()["architecture"]["decoder"] == "cross"
    assert task.layer_of("decoder.blocks.0.cross_attn.kv.weight") is None
    assert not [name for name, _ in task.module.named_parameters() if ".attn." in name and name.startswith("decoder")]
