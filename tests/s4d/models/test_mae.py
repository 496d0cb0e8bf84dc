from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from kernels.reconstruction import patch_targets
from s4d.data.batch import PackedBatch
from s4d.models.build import build_pretrain
from s4d.models.mae import PretrainModel
from s4d.models.sizes import Architecture

MASKED = {"image": 3, "video": 6}


@pytest.fixture
def model(architecture_of: Callable[..., Architecture]) -> PretrainModel:
    return build_pretrain(architecture_of(), seed=1).double()


def test_every_parameter_gets_a_gradient(model: PretrainModel, batch_of: Callable[..., PackedBatch]) -> None:
    sum(model(batch_of(masked=MASKED)).values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_loss_sums_are_those_of_the_predictions(model: PretrainModel, batch_of: Callable[..., PackedBatch]) -> None:
    batch = batch_of(masked=MASKED)
    prediction = model(batch, predict=True)["prediction"]
    sums = model(batch)
    first = 0
    for group in batch.groups:
        tokens = group.pixels.shape[0] * model.arch.tokens(group.modality)
        masked = batch.masked_indices[(batch.masked_indices >= first) & (batch.masked_indices < first + tokens)]
        targets = patch_targets(group.pixels.double() / 255, masked - first, 16, 2)
        expected = (prediction[masked] - targets).square().mean(1).sum()
        torch.testing.assert_close(sums[group.modality], expected, rtol=1e-6, atol=0)
        first += tokens


def test_masked_pixels_do_not_reach_the_prediction(model: PretrainModel, batch_of: Callable[..., PackedBatch]) -> None:
    batch = batch_of(images=range(0), masked=MASKED)
    group = batch.groups[0]
    pixels = group.pixels.clone()
    for token in batch.masked_indices.tolist():
        sample, slice_, cell = token // 8, token % 8 // 4, token % 4
        row, column = 16 * (cell // 2), 16 * (cell % 2)
        pixels[sample, 2 * slice_ : 2 * slice_ + 2, row : row + 16, column : column + 16] = 255
    assert not torch.equal(pixels, group.pixels)
    changed = dataclasses.replace(batch, groups=(dataclasses.replace(group, pixels=pixels),))
    before, after = (model(item, predict=True)["prediction"] for item in (batch, changed))
    assert torch.equal(before, after)


def test_samples_do_not_see_each_other(model: PretrainModel, batch_of: Callable[..., PackedBatch]) -> None:
    together = model(batch_of(masked=MASKED), predict=True)["prediction"]
    alone = [
        model(batch_of(images=range(1), clips=range(0), masked=MASKED), predict=True)["prediction"],
        model(batch_of(images=range(1, 2), clips=range(0), masked=MASKED), predict=True)["prediction"],
        model(batch_of(images=range(0), masked=MASKED), predict=True)["prediction"],
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precisions(model: PretrainModel, batch_of: Callable[..., PackedBatch], dtype: torch.dtype) -> None:
    batch = batch_of(masked=MASKED)
    exact = model(batch)
    rounded = model.to(dtype)(batch)
    for name, value in rounded.items():
        assert value.dtype == torch.float32
        # bfloat16 keeps 8 bits; the loss averages thousands of values.
        torch.testing.assert_close(value.double(), exact[name], rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=0)
