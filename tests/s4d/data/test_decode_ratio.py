"""Batches in which the decoder is given a share of the masked tokens: exact counts, a function of the view alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.data.evaluation import build_evaluation
from s4d.data.loader import build_batches
from s4d.models.stream import group_tokens, masked_layout

MakeConfig = Callable[..., Config]
SHARES = {"decode_ratio": {"image": 1.0, "video": 0.5}, "mask_ratio": {"image": 0.75, "video": 0.75}}


def batches_of(config: Config, rank: int = 0, world_size: int = 1, start: int = 0) -> list[list[PackedBatch]]:
    batches = build_batches(config, rank, world_size)
    try:
        return list(batches.steps(start))
    finally:
        batches.close()


def asked(batch: PackedBatch) -> dict[tuple[str, int], tuple[int, ...]]:
    """Tokens to predict of each view, counted from its first token, by sample and noise key."""
    borders = batch.cu_seqlens.tolist()
    found = {}
    for place, name in enumerate(batch.sample_ids):
        first, stop = borders[place : place + 2]
        inside = batch.masked_indices[(batch.masked_indices >= first) & (batch.masked_indices < stop)] - first
        found[name, int(batch.noise_keys[place])] = tuple(inside.tolist())
    return found


def test_a_share_is_predicted_and_the_rest_is_as_without(pretrain_config: MakeConfig) -> None:
    whole = batches_of(pretrain_config(data={**SHARES, "decode_ratio": {"image": 1.0, "video": 1.0}}))
    for [batch], [every] in zip(batches_of(pretrain_config(data=SHARES)), whole, strict=True):
        assert every.layout_masked is None and masked_layout(every) == ((4, 3), (4, 6))
        assert batch.layout_masked == masked_layout(batch) == ((4, 3), (4, 3))
        assert group_tokens(batch, batch.layout_masked) == [12, 12]
        assert torch.equal(batch.visible_indices, every.visible_indices)
        assert set(batch.masked_indices.tolist()) < set(every.masked_indices.tolist())
        for view, tokens in asked(batch).items():
            assert len(tokens) == 3 and set(tokens) <= set(asked(every)[view])


@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (1, 2), (2, 2)])
def test_the_choice_does_not_depend_on_how_a_step_is_cut(
    pretrain_config: MakeConfig, world_size: int, accumulation: int
) -> None:
    config = pretrain_config(data=SHARES, batch={"accumulation": accumulation})
    ranks = [batches_of(config, rank, world_size) for rank in range(world_size)]
    for number, [batch] in enumerate(batches_of(pretrain_config(data=SHARES))):
        parts = [part for steps in ranks for part in steps[number]]
        together = {view: tokens for part in parts for view, tokens in asked(part).items()}
        assert len(parts) == world_size * accumulation and together == asked(batch)


def test_a_resumed_run_goes_on_with_the_same_choice(pretrain_config: MakeConfig) -> None:
    whole = batches_of(pretrain_config(data=SHARES))
    for [batch], [again] in zip(whole[3:], batches_of(pretrain_config(data=SHARES), start=3), strict=True):
        assert asked(batch) == asked(again)


def test_evaluation_predicts_every_masked_token(pretrain_config: MakeConfig) -> None:
    config = pretrain_config(data=SHARES)
    name = next(source.name for source in config.data.sources if source.modality == "video")
    batch = next(iter(build_evaluation(config, "train", name, 0, 1))).batch
    assert batch.layout_masked is None
    assert batch.visible_indices.numel() + batch.masked_indices.numel() == batch.positions.numel()


def test_rows_of_the_decoders_stream_have_owners(pretrain_config: MakeConfig) -> None:
    [batch] = batches_of(pretrain_config(data=SHARES))[0]
    owners = batch.row_owners(batch.visible_indices.numel() + batch.masked_indices.numel())
    assert owners is not None and owners.bincount().tolist() == [4] * 4 + [5] * 4


def test_counts_that_do_not_fit_are_refused(pretrain_config: MakeConfig) -> None:
    [batch] = batches_of(pretrain_config(data=SHARES))[0]
    with pytest.raises(ValueError, match="masked_indices: expected 28 tokens of the 36 that are not visible, got 24"):
        dataclasses.replace(batch, layout_masked=((4, 3), (4, 4)))
    with pytest.raises(ValueError, match="visible and masked tokens: expected 48 in all, got 12 and 24"):
        dataclasses.replace(batch, layout_masked=None)
