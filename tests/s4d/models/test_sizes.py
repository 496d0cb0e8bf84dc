from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from s4d.config import ModelConfig
from s4d.errors import UsageError
from s4d.models.classifier import FinetuneModel
from s4d.models.mae import PretrainModel
from s4d.models.sizes import SIZES, Architecture, MoaeArchitecture, architecture


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_every_size_builds(size: str) -> None:
    arch = architecture(ModelConfig(size=size), experts=True)
    with torch.device("meta"):
        pretrain, finetune = PretrainModel(arch), FinetuneModel(arch, {"faces": 7})
    assert all(parameter.is_meta for model in (pretrain, finetune) for parameter in model.parameters())
    head_dims = {arch.embed_dim // arch.num_heads, arch.decoder_embed_dim // arch.decoder_num_heads}
    assert head_dims <= {32, 64, 80, 128}


@pytest.mark.parametrize(
    ("size", "total", "encoder", "decoder"),
    [
        ("small", 24_029_376, 21_879_936, 2_075_520),
        ("base", 94_210_944, 86_227_200, 7_688_448),
        ("large", 317_782_016, 303_860_736, 13_396_480),
    ],
)
def test_published_pretraining_sizes(size: str, total: int, encoder: int, decoder: int) -> None:
    with torch.device("meta"):
        model = PretrainModel(architecture(ModelConfig(size=size), experts=False))
    assert (count(model), count(model.encoder), count(model.decoder)) == (total, encoder, decoder)


@pytest.mark.parametrize(
    ("size", "layers", "classes", "plain", "experts"),
    [
        ("base", range(6, 12), {"image": 7, "video": 7}, 86_237_966, 14_275_680),
        ("base", range(6, 12), {"image": 7, "video": 11}, 86_241_042, 14_275_680),
        ("small", range(6, 12), {"image": 7, "video": 7}, None, 3_598_944),
        ("large", range(6, 12), {"image": 7, "video": 7}, None, 25_325_664),
    ],
)
def test_published_finetuning_sizes(
    size: str, layers: range, classes: dict[str, int], plain: int | None, experts: int
) -> None:
    arch = architecture(ModelConfig(size=size), experts=True)
    assert arch.experts is not None
    without = {**arch.to_dict(), "experts": None}
    with_six = {**arch.to_dict(), "experts": {**arch.to_dict()["experts"], "layers": tuple(layers)}}  # type: ignore[dict-item]
    with torch.device("meta"):
        dense = FinetuneModel(Architecture.from_dict(without), classes)
        model = FinetuneModel(Architecture.from_dict(with_six), classes)
    assert count(model) - count(dense) == experts
    if plain is not None:
        assert count(dense) == plain


def test_experts_sit_in_the_upper_half() -> None:
    experts = architecture(ModelConfig(size="base"), experts=True).experts
    assert experts is not None
    assert (experts.layers, experts.hidden_dim) == (tuple(range(6, 12)), 192)
    assert architecture(ModelConfig(size="base"), experts=False).experts is None


def test_overrides_and_tokens() -> None:
    model = ModelConfig(size="base", depth=2, image_size=96, num_frames=8, position_frames=16)
    arch = architecture(model, experts=False)
    assert (arch.depth, arch.embed_dim) == (2, 768)
    assert (arch.tokens("image"), arch.tokens("video"), arch.position_tokens) == (36, 144, 288)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": "giant"}, "model.size"),
        ({"embed_dim": 100}, "num_heads"),
        ({"position_frames": 8}, "position_frames"),
        ({"moae": {"first_layer": 12}}, "moae.first_layer"),
        ({"moae": {"hidden_ratio": 1e-4}}, "moae.hidden_ratio"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        architecture(ModelConfig.model_validate(changes), experts=True)


def test_architecture_survives_json(
    architecture_of: Callable[..., Architecture], experts_of: Callable[..., MoaeArchitecture]
) -> None:
    import json

    arch = architecture_of(experts=experts_of())
    assert Architecture.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch
