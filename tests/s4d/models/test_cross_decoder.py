"""Decoders that see a share of the masked tokens, or see them by cross-attention, against one sample at a time."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.half import HalfForward
from kernels.reconstruction import patch_targets
from s4d.data.batch import PackedBatch
from s4d.errors import DataError
from s4d.models import compiled
from s4d.models.build import build_finetune, build_pretrain
from s4d.models.cross_decoder import CrossBlock, cross_attention
from s4d.models.folder import read_architecture, write_folder
from s4d.models.mae import PretrainModel
from s4d.models.sizes import Architecture
from s4d.models.stream import Segments, visible_segments
from s4d.models.vit import embed_groups
from s4d.models.weights import load_initial

MASKED = {"image": 3, "video": 6}
DECODED = {"image": 2, "video": 3}
ARMS = [("joint", DECODED), ("cross", None), ("cross", DECODED)]

Model = Callable[..., PretrainModel]


@pytest.fixture
def model_of(architecture_of: Callable[..., Architecture]) -> Model:
    """In float64, with biases and norms that are not 0 and 1."""

    def build(decoder: str) -> PretrainModel:
        model = build_pretrain(architecture_of(decoder=decoder), seed=1).double()
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        return model

    return build


def attended(block: CrossBlock, x: Tensor, memory: Tensor) -> Tensor:
    """Attention of one sequence with its scores written out, head by head."""
    layer = block.cross_attn
    queries, (keys, values) = layer.q(x), layer.kv(memory).chunk(2, dim=1)
    width = x.shape[1] // layer.num_heads
    heads = []
    for q, k, v in zip(queries.split(width, 1), keys.split(width, 1), values.split(width, 1), strict=True):
        heads.append(torch.softmax(q @ k.T / math.sqrt(width), dim=1) @ v)
    output: Tensor = layer.proj(torch.cat(heads, dim=1))
    return output


def alone(model: PretrainModel, shown: Tensor, asked: Tensor) -> Tensor:
    """Normed rows of the tokens to predict of one sample."""
    if model.arch.decoder == "joint":
        borders = torch.tensor([0, len(shown) + len(asked)], dtype=torch.int32)
        layout = ((1, int(borders[1])),)
        whole = model.decoder(torch.cat((asked, shown)), Segments(borders, layout[0][1], layout), None)
        return whole[: len(asked)]
    for block in model.decoder.blocks:
        asked = asked + attended(block, block.norm1(asked), shown)
        asked = asked + block.mlp(block.norm2(asked))
    output: Tensor = model.decoder.norm(asked)
    return output


def sample_by_sample(model: PretrainModel, batch: PackedBatch) -> dict[str, Tensor]:
    """Loss sums by modality: the encoder as it is, the decoder for each sample on its own."""
    places = batch.positions[batch.visible_indices]
    tokens = embed_groups(model.encoder.patch_embed, batch)
    bridged = model.encoder_to_decoder(
        model.encoder(tokens + model.encoder_positions[places].to(tokens.dtype), visible_segments(batch))
    )
    table = model.decoder_positions.to(bridged.dtype)
    sums: dict[str, Tensor] = {}
    sequence = 0
    for group in batch.groups:
        first_of_group = int(batch.cu_seqlens[sequence])
        for _ in group.sample_ids:
            first, stop = batch.cu_seqlens[sequence : sequence + 2].tolist()
            seen = (batch.visible_indices >= first) & (batch.visible_indices < stop)
            wanted = batch.masked_indices[(batch.masked_indices >= first) & (batch.masked_indices < stop)]
            shown = bridged[seen] + table[batch.visible_indices[seen] - first]
            hidden = alone(model, shown, model.mask_token.view(1, -1) + table[wanted - first])
            target = patch_targets(group.pixels.double() / 255, wanted - first_of_group, 16, 2)
            loss = (model.decoder.head(hidden) - target).square().mean(1).sum()
            sums[group.modality] = sums.get(group.modality, torch.zeros(())) + loss
            sequence += 1
    return sums


@pytest.mark.parametrize(("decoder", "decoded"), ARMS)
def test_a_packed_batch_is_its_samples_one_by_one(
    model_of: Model, batch_of: Callable[..., PackedBatch], decoder: str, decoded: dict[str, int] | None
) -> None:
    """Loss and every gradient; each modality's sum is over the tokens to predict and no others."""
    model, batch = model_of(decoder), batch_of(masked=MASKED, decoded=decoded)
    found, expected = [], []
    for sums, gradients in ((model(batch), found), (sample_by_sample(model, batch), expected)):
        model.zero_grad()
        assert list(sums) == ["image", "video"]
        (0.3 * sums["image"] + 0.7 * sums["video"]).backward()
        gradients += [sums["image"].detach(), sums["video"].detach()]
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
        gradients += [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    # The loss of the op is float32's for pixels of 8 bit: its own tests hold it.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_attention_of_unequal_runs(model_of: Model) -> None:
    """Runs of other numbers of queries and of keys, one of a single key."""
    generator = torch.Generator().manual_seed(3)
    pairs = ((2, 3, 2), (1, 5, 1), (3, 1, 4))
    queries = torch.randn(2 * 3 + 5 + 3, 2, 4, generator=generator, dtype=torch.float64)
    memory = torch.randn(2 * 2 + 1 + 3 * 4, 2, 2, 4, generator=generator, dtype=torch.float64)
    expected, first, key = [], 0, 0
    for count, asked, seen in pairs:
        for _ in range(count):
            q, (k, v) = queries[first : first + asked], memory[key : key + seen].unbind(1)
            scores = torch.einsum("qhd,khd->hqk", q, k) / 2
            expected.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v))
            first, key = first + asked, key + seen
    torch.testing.assert_close(cross_attention(queries, memory, pairs), torch.cat(expected))


@pytest.mark.parametrize("decoded", [None, DECODED])
def test_what_cross_attention_predicts_does_not_depend_on_what_else_is_asked(
    model_of: Model, batch_of: Callable[..., PackedBatch], decoded: dict[str, int] | None
) -> None:
    model, batch = model_of("cross"), batch_of(masked=MASKED, decoded=decoded)
    every = model(batch, predict=True)["prediction"]
    assert every.shape == (batch.positions.shape[0], model.arch.token_values)
    sums, first = model(batch), 0
    for group in batch.groups:
        stop = first + group.pixels.shape[0] * model.arch.tokens(group.modality)
        wanted = batch.masked_indices[(batch.masked_indices >= first) & (batch.masked_indices < stop)]
        target = patch_targets(group.pixels.double() / 255, wanted - first, 16, 2)
        expected = (every[wanted] - target).square().mean(1).sum()
        torch.testing.assert_close(sums[group.modality], expected, rtol=1e-6, atol=0)
        first = stop


def test_pictures_of_a_joint_decoder_have_all_tokens(model_of: Model, batch_of: Callable[..., PackedBatch]) -> None:
    model = model_of("joint")
    whole, share = (
        model(batch_of(masked=MASKED, decoded=decoded), predict=True)["prediction"] for decoded in (None, DECODED)
    )
    assert torch.equal(whole, share)


@pytest.mark.parametrize(("decoder", "decoded"), ARMS)
def test_bfloat16_copies_of_the_weights(
    model_of: Model, batch_of: Callable[..., PackedBatch], decoder: str, decoded: dict[str, int] | None
) -> None:
    model, batch = model_of(decoder), batch_of(masked=MASKED, decoded=decoded)
    exact = model(batch)
    for name, value in HalfForward(model.float())(batch).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), exact[name], rtol=1e-2, atol=0)


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda forward, **_: compile_(forward, fullgraph=True, dynamic=False, backend="aot_eager")
    )
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("traced_only")
def test_compiled_blocks_of_cross_attention(model_of: Model, batch_of: Callable[..., PackedBatch]) -> None:
    model, batch = model_of("cross"), batch_of(masked=MASKED, decoded=DECODED)
    expected = model(batch)
    compiled.choose_forwards(model, "compiled", zero_stage=1)
    torch.testing.assert_close(model(batch), expected, rtol=1e-10, atol=0)


def test_a_checkpoint_says_which_decoder_it_has(model_of: Model, tmp_path: Path) -> None:
    model = model_of("cross")
    tensors = {name: value.detach().float() for name, value in model.named_parameters()}
    described = {"architecture": model.arch.to_dict(), "classes": {}}
    write_folder(tmp_path / "cross", tensors, described)
    assert read_architecture(tmp_path / "cross") == model.arch
    older = json.loads(json.dumps(described))
    del older["architecture"]["decoder"]
    write_folder(tmp_path / "older", tensors, older)
    assert read_architecture(tmp_path / "older").decoder == "joint"
    older["architecture"]["decoder"] = "deep"
    write_folder(tmp_path / "wrong", tensors, older)
    with pytest.raises(DataError, match="decoder must be one of joint, cross, got 'deep'"):
        read_architecture(tmp_path / "wrong")


def test_fine_tuning_takes_the_encoder_and_pre_training_its_own_kind(model_of: Model, tmp_path: Path) -> None:
    model = model_of("cross")
    tensors = {name: value.detach().float() for name, value in model.named_parameters()}
    write_folder(tmp_path / "cross", tensors, {"architecture": model.arch.to_dict(), "classes": {}})
    classifier = build_finetune(dataclasses.replace(model.arch, decoder="joint"), {"faces": 3}, 0)
    report = load_initial(classifier, tmp_path / "cross")
    assert {reason for name, reason in report.unused.items() if "decoder" in name} == {"pre-training only"}
    taken = dict(classifier.named_parameters())["blocks.1.attn.qkv.weight"]
    assert torch.equal(taken, tensors["encoder.blocks.1.attn.qkv.weight"])
    with pytest.raises(DataError, match=r"decoder\.blocks\.0\.cross_attn"):
        load_initial(build_pretrain(dataclasses.replace(model.arch, decoder="joint"), 0), tmp_path / "cross")
    again = build_pretrain(model.arch, 0)
    load_initial(again, tmp_path / "cross")
    assert all(F.mse_loss(value, tensors[name]) == 0 for name, value in again.named_parameters())
