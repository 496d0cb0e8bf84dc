"""The error in the change within tubelets: against differences of predictions and targets, taken by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kernels.reconstruction import patch_targets
from kernels.reconstruction.target import target_request
from s4d.data.batch import PackedBatch
from s4d.models.build import build_pretrain
from s4d.models.motion import motion_error
from s4d.models.sizes import Architecture

MASKED = {"image": 2, "video": 5}
MakeBatch = Callable[..., PackedBatch]


def errors_by_hand(model: torch.nn.Module, batch: PackedBatch) -> Tensor:
    """Predicted minus true values of the clips' masked tokens, (M, 2 frames, values of one)."""
    prediction = model(batch, predict=True)["prediction"]
    clips = batch.groups[-1]
    first = batch.positions.shape[0] - clips.pixels.shape[0] * 8
    wanted = batch.masked_indices[batch.masked_indices >= first]
    target = patch_targets(clips.pixels, wanted - first, 16, 2).double()
    return (prediction[wanted] - target).unflatten(1, (2, -1))


@pytest.mark.parametrize("decoder", ["joint", "cross"])
def test_the_formula(architecture_of: Callable[..., Architecture], batch_of: MakeBatch, decoder: str) -> None:
    model = build_pretrain(architecture_of(decoder=decoder), seed=1).double()
    batch = batch_of(masked=MASKED)
    found = model(batch, motion=True)
    errors = errors_by_hand(model, batch)
    change = errors[:, 1] - errors[:, 0]
    # The targets by hand are float32.
    torch.testing.assert_close(found["motion"], change.square().mean(1).sum(), rtol=1e-5, atol=0)
    total = errors.sum(1)
    split = (total.square() + change.square()).mean(1).sum() / 4
    torch.testing.assert_close(found["video"], split, rtol=1e-5, atol=0)


def test_off_is_the_same_to_the_bit(architecture_of: Callable[..., Architecture], batch_of: MakeBatch) -> None:
    model, batch = build_pretrain(architecture_of(), seed=1).double(), batch_of(masked=MASKED)
    plain, with_motion = model(batch), model(batch, motion=True)
    assert set(plain) == {"image", "video"} and set(with_motion) == {*plain, "motion"}
    assert all(torch.equal(value, with_motion[name]) for name, value in plain.items())


def test_stills_have_none(architecture_of: Callable[..., Architecture], batch_of: MakeBatch) -> None:
    model = build_pretrain(architecture_of(), seed=1).double()
    assert set(model(batch_of(clips=range(0), masked=MASKED), motion=True)) == {"image"}
    both, alone = batch_of(masked=MASKED), batch_of(images=range(0), masked=MASKED)
    torch.testing.assert_close(model(both, motion=True)["motion"], model(alone, motion=True)["motion"])
    # The target of a still is its frame twice, so a head that predicts no change has no error there.
    image = both.groups[0].pixels
    request = target_request(image, torch.arange(4), 16, 2, torch.float64)
    steady = torch.randn(768, 5, dtype=torch.float64).repeat(2, 1)
    hidden = torch.randn(4, 5, dtype=torch.float64)
    assert motion_error(hidden, steady, torch.zeros(1536, dtype=torch.float64), request) == 0


@pytest.mark.parametrize("frames", [2, 4])
def test_gradient_and_value_for_tubelets_of_any_length(frames: int) -> None:
    """Against predictions of all frames and their differences; patches of 2 pixels keep it small."""
    pixels = torch.randint(0, 256, (1, 4, 4, 4, 3), dtype=torch.uint8)
    indices, values = torch.tensor([0, 3]), 3 * frames * 4
    request = target_request(pixels, indices, 2, frames, torch.float64)
    hidden, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3), (values, 3), (values,))
    )
    target = patch_targets(pixels.double() / 255, indices, 2, frames)
    predicted = hidden @ weight.t() + bias
    change = (predicted - target).unflatten(1, (frames, -1)).diff(dim=1)
    expected = change.square().mean((1, 2)).sum()
    found = motion_error(hidden, weight, bias, request)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    leaves = (hidden, weight, bias)
    pairs = zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *operands: motion_error(*operands, request), leaves)
