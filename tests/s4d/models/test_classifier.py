from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from s4d.data.batch import PackedBatch
from s4d.models.build import build_finetune
from s4d.models.classifier import FinetuneModel
from s4d.models.sizes import Architecture, MoaeArchitecture

HEADS = {"faces": 3, "clips": 4}


@pytest.fixture
def build(
    architecture_of: Callable[..., Architecture], experts_of: Callable[..., MoaeArchitecture]
) -> Callable[..., FinetuneModel]:
    def make(experts: bool = True, **changes: object) -> FinetuneModel:
        return build_finetune(
            architecture_of(experts=experts_of(**changes) if experts else None), HEADS, seed=2
        ).double()

    return make


def features(model: FinetuneModel, batch: PackedBatch) -> torch.Tensor:
    return model(batch).features


def test_every_parameter_gets_a_gradient(
    build: Callable[..., FinetuneModel], batch_of: Callable[..., PackedBatch]
) -> None:
    model = build()
    output = model(batch_of(images=range(0)))
    sum(logits.square().sum() for logits in output.logits.values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_samples_do_not_see_each_other(
    build: Callable[..., FinetuneModel], batch_of: Callable[..., PackedBatch]
) -> None:
    model = build()
    together = features(model, batch_of())
    alone = [features(model, batch_of(images=range(i, i + 1), clips=range(0))) for i in range(2)]
    alone += [features(model, batch_of(images=range(0), clips=range(i, i + 1))) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-10, atol=1e-10)


def test_noise_follows_the_sample_key(
    build: Callable[..., FinetuneModel], batch_of: Callable[..., PackedBatch]
) -> None:
    model, batch = build(), batch_of()
    other = dataclasses.replace(batch, noise_keys=batch.noise_keys + 1)
    later = dataclasses.replace(batch, layer_keys=batch.layer_keys + 1)
    assert torch.equal(features(model, batch), features(model, batch))
    assert not torch.equal(features(model, batch), features(model, other))
    assert not torch.equal(features(model, batch), features(model, later))


@pytest.mark.parametrize(("mode", "in_training", "in_evaluation"), [("off", 0, 0), ("train", 1, 0), ("always", 1, 1)])
def test_when_there_is_noise(
    build: Callable[..., FinetuneModel],
    batch_of: Callable[..., PackedBatch],
    mode: str,
    in_training: int,
    in_evaluation: int,
) -> None:
    model, batch = build(router_noise=mode), batch_of()
    other = dataclasses.replace(batch, noise_keys=batch.noise_keys + 1)
    for training, noisy in ((True, in_training), (False, in_evaluation)):
        model.train(training)
        assert torch.equal(features(model, batch), features(model, other)) is not bool(noisy)


def test_zero_initialised_experts_start_at_the_dense_model(
    build: Callable[..., FinetuneModel], batch_of: Callable[..., PackedBatch]
) -> None:
    batch = batch_of()
    dense, sparse = build(experts=False), build(zero_init=True)
    assert torch.equal(features(dense, batch), features(sparse, batch))
    assert not torch.equal(features(dense, batch), features(build(zero_init=False), batch))


def test_drop_path_scales_the_branches_of_its_sequence(
    build: Callable[..., FinetuneModel], batch_of: Callable[..., PackedBatch]
) -> None:
    model, batch = build(experts=False), batch_of()
    keep = torch.ones(3, 4)
    keep[:, 1] = 0
    keep[1, 2] = 2
    dropped = dataclasses.replace(batch, drop_path_keep=keep)
    plain, with_drops = features(model, batch), features(model, dropped)
    assert torch.equal(plain[[0, 3]], with_drops[[0, 3]])
    embedded = features(FinetuneModelWithoutBlocks.of(model), batch)
    torch.testing.assert_close(with_drops[1], embedded[1], rtol=1e-12, atol=1e-12)
    assert not torch.equal(plain[2], with_drops[2])
    model.eval()
    assert torch.equal(features(model, dropped), features(model, batch))


class FinetuneModelWithoutBlocks:
    @staticmethod
    def of(model: FinetuneModel) -> FinetuneModel:
        bare = FinetuneModel(dataclasses.replace(model.arch, depth=0), HEADS).double()
        bare.load_state_dict({name: value for name, value in model.state_dict().items() if "blocks" not in name})
        return bare


def test_counts_by_modality(build: Callable[..., FinetuneModel], batch_of: Callable[..., PackedBatch]) -> None:
    batch = batch_of()
    for terms in build()(batch).routing:
        assert terms.counts.sum(1).tolist() == [2 * 4 * 2, 2 * 8 * 2]
        torch.testing.assert_close(terms.prob_sums.sum(1), torch.tensor([8.0, 16.0], dtype=torch.float64))


def test_bfloat16(build: Callable[..., FinetuneModel], batch_of: Callable[..., PackedBatch]) -> None:
    model, batch = build(router_noise="off"), batch_of()
    exact = model(batch).logits
    rounded = model.bfloat16()(batch).logits
    for name, logits in rounded.items():
        assert logits.dtype == torch.float32
        assert (logits.double() - exact[name]).norm() < 0.05 * exact[name].norm()
