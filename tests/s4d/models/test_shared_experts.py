"""Experts that serve every token, beside those that are routed to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import gelu

from s4d.data.batch import PackedBatch
from s4d.models.build import build_finetune
from s4d.models.classifier import FinetuneModel
from s4d.models.moae import SharedExperts
from s4d.models.sizes import Architecture, MoaeArchitecture

HEADS = {"faces": 3, "clips": 4}
KINDS = ("fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias")


@pytest.fixture
def build(
    architecture_of: Callable[..., Architecture], experts_of: Callable[..., MoaeArchitecture]
) -> Callable[..., FinetuneModel]:
    def make(**changes: object) -> FinetuneModel:
        return build_finetune(architecture_of(experts=experts_of(**changes)), HEADS, seed=2).double()

    return make


def filled(shared: SharedExperts) -> SharedExperts:
    with torch.no_grad():
        for parameter in shared.parameters():
            parameter.normal_()
    return shared.double()


def test_they_are_the_sum_of_adapters() -> None:
    """Three of width 4, each on its slice of the hidden layer, every one of them for every token."""
    shared, x = filled(SharedExperts(8, 3 * 4, zero_init=True)), torch.randn(5, 8, dtype=torch.float64)
    expected = shared.fc2_bias.expand(5, -1)
    for expert in range(3):
        part = slice(4 * expert, 4 * expert + 4)
        hidden = gelu(x @ shared.fc1_weight[part].t() + shared.fc1_bias[part])
        expected = expected + hidden @ shared.fc2_weight[:, part].t()
    torch.testing.assert_close(shared(x), expected)


def test_gradients_in_float64() -> None:
    shared = filled(SharedExperts(4, 3, zero_init=True))
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *_: shared(x), (x, *shared.parameters()))


def test_a_layer_adds_them_to_the_routed_ones(
    build: Callable[..., FinetuneModel], batch_of: Callable[..., PackedBatch]
) -> None:
    model = build(shared_experts=2)
    layer = model.blocks[1].moae
    filled(layer.shared)
    x, residual = torch.randn(24, 64, dtype=torch.float64), torch.randn(24, 64, dtype=torch.float64)
    noise = torch.randn(24, 4, dtype=torch.float64)
    output, terms = layer(x, residual, noise, (0, 8, 24))
    shared, layer.shared = layer.shared, None
    routed, alone = layer(x, residual, noise, (0, 8, 24))
    torch.testing.assert_close(output, routed + shared(x), rtol=1e-10, atol=1e-10)
    assert torch.equal(terms.expert_ids, alone.expert_ids) and torch.equal(terms.gates, alone.gates)


@pytest.mark.parametrize("prior", [False, True])
def test_zero_initialised_they_change_nothing_at_first(
    build: Callable[..., FinetuneModel], batch_of: Callable[..., PackedBatch], prior: bool
) -> None:
    batch, settings = batch_of(), {"zero_init": True, "modality_prior": prior}
    plain, model = build(**settings), build(shared_experts=2, **settings)
    state, other = plain.state_dict(), model.state_dict()
    assert set(other) - set(state) == {f"blocks.{layer}.moae.shared.{kind}" for layer in (1, 2) for kind in KINDS}
    assert all(torch.equal(value, other[name]) for name, value in state.items())
    assert torch.equal(plain(batch).features, model(batch).features)
    released = build(shared_experts=2, zero_init=False)
    assert not torch.equal(build(zero_init=False)(batch).features, released(batch).features)
