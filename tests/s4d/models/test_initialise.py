from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from s4d.models.build import build_finetune, build_pretrain
from s4d.models.classifier import FinetuneModel
from s4d.models.initialise import STD, initialise
from s4d.models.mae import PretrainModel
from s4d.models.sizes import Architecture, MoaeArchitecture

Model = PretrainModel | FinetuneModel


@pytest.fixture(params=["pretrain", "finetune"])
def model(
    request: pytest.FixtureRequest,
    architecture_of: Callable[..., Architecture],
    experts_of: Callable[..., MoaeArchitecture],
) -> Model:
    if request.param == "pretrain":
        return build_pretrain(architecture_of(), seed=3)
    return build_finetune(architecture_of(experts=experts_of()), {"faces": 3, "clips": 4}, seed=3)


def test_no_parameter_is_left_out(model: Model) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    initialise(model, seed=3)
    assert [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()] == []


def test_weights_depend_on_the_seed_alone(model: Model) -> None:
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    state = torch.random.get_rng_state()
    torch.rand(7)
    initialise(model, seed=3)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    initialise(model, seed=4)
    random = [name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)]
    assert any("qkv" in name for name in random) and any("patch_embed" in name for name in random)
    torch.random.set_rng_state(state)


def test_building_leaves_the_global_generator_alone(architecture_of: Callable[..., Architecture]) -> None:
    state = torch.random.get_rng_state()
    build_pretrain(architecture_of(), seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_rules_of_pretraining(architecture_of: Callable[..., Architecture]) -> None:
    model = build_pretrain(architecture_of(), seed=0)
    attention = model.encoder.blocks[0].attn
    assert not attention.q_bias.any() and not attention.v_bias.any() and not attention.proj.bias.any()
    bound = (6 / (3 * 64 + 64)) ** 0.5
    assert 0.95 * bound < attention.qkv.weight.abs().max() <= bound
    assert model.mask_token.abs().max() <= STD and model.mask_token.std() > STD / 4
    patch = model.encoder.patch_embed.proj
    assert patch.weight.abs().max() <= 1536**-0.5 and patch.bias.any()


@pytest.mark.parametrize("zero_init", [True, False])
def test_rules_of_finetuning(
    architecture_of: Callable[..., Architecture], experts_of: Callable[..., MoaeArchitecture], zero_init: bool
) -> None:
    model = build_finetune(architecture_of(experts=experts_of(zero_init=zero_init)), {"faces": 3}, seed=0)
    moae = model.blocks[1].moae
    assert moae is not None
    assert abs(moae.fc1_weight.std() - STD) < 0.1 * STD
    assert bool(moae.fc2_weight.any()) is not zero_init
    assert model.blocks[0].moae is None
