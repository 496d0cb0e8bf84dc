"""A router bias for each modality: against the definition with a bias for each token, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, softplus

from kernels.backends import BackendRefusedError
from s4d.data.batch import PackedBatch
from s4d.models.build import build_finetune
from s4d.models.classifier import FinetuneModel
from s4d.models.moae import MoaeAdapters
from s4d.models.sizes import Architecture, MoaeArchitecture

HEADS = {"faces": 3, "clips": 4}
WIDTH, EXPERTS, TOP_K, HIDDEN, IMAGES, CLIPS = 32, 4, 2, 16, 10, 17
TOKENS = IMAGES + CLIPS
BORDERS = (0, IMAGES, TOKENS)


class Inputs(NamedTuple):
    x: Tensor
    residual: Tensor
    noise: Tensor


def adapters(dtype: torch.dtype, *, prior: bool = True, backend: str | None = None) -> MoaeAdapters:
    """A layer of random weights, the same for every call."""
    moae = MoaeArchitecture(
        layers=(0,), num_experts=EXPERTS, top_k=TOP_K, hidden_dim=HIDDEN, zero_init=False, modality_prior=prior
    )
    layer = MoaeAdapters(WIDTH, moae, backend)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.normal_(generator=generator).mul_(1.0 if name == "modality_bias" else 0.3)
    return layer.to(dtype)


def inputs(dtype: torch.dtype) -> Inputs:
    generator = torch.Generator().manual_seed(4)
    shapes = ((TOKENS, WIDTH), (TOKENS, WIDTH), (TOKENS, EXPERTS))
    return Inputs(*(torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes))


def by_hand(layer: MoaeAdapters, given: Inputs) -> tuple[Tensor, Tensor]:
    """Output and scores, every expert on every token, with the modality's bias added to the scores of its tokens."""
    assert layer.modality_bias is not None and layer.noise_weight is not None and layer.noise_bias is not None
    x, modality = given.x, torch.tensor([0] * IMAGES + [1] * CLIPS)
    scores = x @ layer.router_weight.t() + layer.router_bias + layer.modality_bias[modality]
    scores = scores + given.noise * softplus(x @ layer.noise_weight.t() + layer.noise_bias)
    top = scores.topk(TOP_K, dim=1)
    gates = torch.zeros_like(scores).scatter(1, top.indices, top.values.softmax(1))
    hidden = gelu(torch.einsum("td,ehd->teh", x, layer.fc1_weight) + layer.fc1_bias)
    outputs = torch.einsum("teh,edh->ted", hidden, layer.fc2_weight) + layer.fc2_bias
    return given.residual + (gates[:, :, None] * outputs).sum(1), scores


@pytest.mark.parametrize("backend", ["reference", "grouped", "dense_all", "per_expert", "triton"])
def test_every_backend_adds_the_bias_of_the_token(backend: str) -> None:
    dtype = torch.float32 if backend == "triton" else torch.float64
    tolerance = {"rtol": 2e-4, "atol": 2e-4} if backend == "triton" else {"rtol": 1e-10, "atol": 1e-10}
    layer, given = adapters(dtype, backend=backend), inputs(dtype)
    definition, exact = adapters(torch.float64), inputs(torch.float64)
    try:
        output, terms = layer(given.x, given.residual, given.noise, BORDERS)
    except BackendRefusedError as refusal:
        pytest.skip(f"{backend} cannot serve a CPU here: {refusal}")
    expected, scores = by_hand(definition, exact)
    probabilities = scores.softmax(1)
    torch.testing.assert_close(output.double(), expected, **tolerance)
    torch.testing.assert_close(terms.router_logits.double(), scores, **tolerance)
    sums = torch.stack((probabilities[:IMAGES].sum(0), probabilities[IMAGES:].sum(0)))
    torch.testing.assert_close(terms.prob_sums.double(), sums, **tolerance)
    chosen = torch.nn.functional.one_hot(scores.topk(TOP_K, dim=1).indices, EXPERTS).sum(1)
    assert torch.equal(terms.counts, torch.stack((chosen[:IMAGES].sum(0), chosen[IMAGES:].sum(0))))
    assert torch.equal(terms.expert_ids, scores.topk(TOP_K, dim=1).indices)
    objective = torch.linspace(-1, 1, TOKENS * WIDTH, dtype=torch.float64).view(TOKENS, WIDTH)
    weights = torch.linspace(1, 2, 2 * EXPERTS, dtype=torch.float64).view(2, EXPERTS)
    ((output * objective.to(dtype)).sum() + (terms.prob_sums * weights.to(dtype)).sum()).backward()
    ((expected * objective).sum() + (sums * weights).sum()).backward()
    for name, parameter in definition.named_parameters():
        found = layer.get_parameter(name).grad
        assert found is not None and parameter.grad is not None, name
        torch.testing.assert_close(found.double(), parameter.grad, **tolerance)
    assert layer.modality_bias is not None and layer.modality_bias.grad is not None
    both = layer.modality_bias.grad.sum(0)
    torch.testing.assert_close(both, layer.router_bias.grad, **tolerance)


def test_gradient_of_the_bias_in_float64() -> None:
    layer, given = adapters(torch.float64, backend="reference"), inputs(torch.float64)
    parameter = layer.modality_bias
    assert parameter is not None

    def objective() -> Tensor:
        output, terms = layer(given.x, given.residual, given.noise, BORDERS)
        return output.square().sum() + terms.prob_sums.square().sum()

    objective().backward()
    step = 1e-6
    for place in ((0, 0), (0, 3), (1, 1), (1, 2)):
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                parameter[place] += sign * step
                values.append(objective())
                parameter[place] -= sign * step
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad[place], (values[0] - values[1]) / (2 * step), rtol=1e-5, atol=1e-5)


@pytest.fixture
def build(
    architecture_of: Callable[..., Architecture], experts_of: Callable[..., MoaeArchitecture]
) -> Callable[..., FinetuneModel]:
    def make(**changes: object) -> FinetuneModel:
        return build_finetune(architecture_of(experts=experts_of(**changes)), HEADS, seed=2).double()

    return make


def test_a_model_starts_where_it_does_without(
    build: Callable[..., FinetuneModel], batch_of: Callable[..., PackedBatch]
) -> None:
    """With its keyed noise; the weights are the same, and the bias is 0."""
    plain, conditioned, batch = build(), build(modality_prior=True), batch_of()
    state, other = plain.state_dict(), conditioned.state_dict()
    assert set(other) - set(state) == {f"blocks.{layer}.moae.modality_bias" for layer in (1, 2)}
    assert all(torch.equal(value, other[name]) for name, value in state.items())
    assert not any(other[name].any() for name in set(other) - set(state))
    found, expected = conditioned(batch), plain(batch)
    torch.testing.assert_close(found.features, expected.features, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(found.routing, expected.routing, strict=True):
        assert torch.equal(ours.expert_ids, theirs.expert_ids) and torch.equal(ours.counts, theirs.counts)
        torch.testing.assert_close(ours.prob_sums, theirs.prob_sums, rtol=1e-10, atol=1e-10)


def test_it_moves_one_modality_alone(build: Callable[..., FinetuneModel], batch_of: Callable[..., PackedBatch]) -> None:
    model, batch = build(modality_prior=True), batch_of()
    before = model(batch)
    with torch.no_grad():
        model.get_parameter("blocks.1.moae.modality_bias")[1, 3] = 100.0
    after = model(batch)
    assert after.routing[0].counts[1, 3] == 2 * 8
    assert torch.equal(after.routing[0].counts[0], before.routing[0].counts[0])
    torch.testing.assert_close(after.features[:2], before.features[:2], rtol=1e-10, atol=1e-10)
    assert (after.features[2:] - before.features[2:]).abs().max() > 1e-4


@pytest.mark.parametrize(("absent", "row"), [("images", 0), ("clips", 1)])
def test_an_absent_modality_leaves_a_gradient_of_zero(
    build: Callable[..., FinetuneModel], batch_of: Callable[..., PackedBatch], absent: str, row: int
) -> None:
    model = build(modality_prior=True)
    output = model(batch_of(**{absent: range(0)}))
    assert not output.routing[0].counts[row].any() and output.routing[0].counts[1 - row].any()
    sum(logits.square().sum() for logits in output.logits.values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    gradient = model.get_parameter("blocks.1.moae.modality_bias").grad
    assert gradient is not None and not gradient[row].any() and gradient[1 - row].any()


def test_it_takes_no_capacity(experts_of: Callable[..., MoaeArchitecture]) -> None:
    with pytest.raises(ValueError, match=r"moae\.modality_prior"):
        experts_of(modality_prior=True, capacity_factor=1.0)
