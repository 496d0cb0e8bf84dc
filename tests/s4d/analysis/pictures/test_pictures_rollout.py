"""Attention recomputed from projections, and what flows back through the layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from s4d.analysis.pictures.rollout import attention_weights, pooled_relevance, rollout
from s4d.analysis.pictures.trace import sequences, traced
from s4d.data.batch import PackedBatch
from s4d.models.build import build_finetune
from s4d.models.sizes import Architecture, MoaeArchitecture


def test_two_layers_of_four_tokens_by_hand() -> None:
    first = torch.tensor(
        [[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.25, 0.25, 0.25, 0.25]],
        dtype=torch.float64,
    )
    second = torch.tensor(
        [[0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64
    )
    # (A + I) / 2 of each, the second times the first.
    expected = [
        [0.625, 0.375, 0.0, 0.0],
        [0.25, 0.75, 0.0, 0.0],
        [0.25, 0.0, 0.375, 0.375],
        [0.125, 0.125, 0.125, 0.625],
    ]
    found = rollout([first, second])
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64))
    assert torch.allclose(found.sum(1), torch.ones(4, dtype=torch.float64))


def test_attention_forced_onto_one_token_leads_there() -> None:
    tokens, heads, dim, layers, wanted = 6, 2, 8, 5, 4
    qkv = torch.zeros(tokens, 3, heads, dim // heads, dtype=torch.float64)
    qkv[:, 0, :, 0] = 1.0
    qkv[wanted, 1, :, 0] = 200.0
    weights = attention_weights(qkv.flatten(1), heads)
    assert torch.allclose(weights[..., wanted], torch.ones(heads, tokens, dtype=torch.float64))
    relevance = pooled_relevance([qkv.flatten(1)] * layers, heads)
    # The residual path leaves half of the rest where it is in every layer.
    left = 0.5**layers / tokens
    assert torch.allclose(relevance[torch.arange(tokens) != wanted], torch.full((5,), left, dtype=torch.float64))
    assert torch.allclose(relevance[wanted], torch.tensor(1 - 5 * left, dtype=torch.float64))


def test_even_attention_tells_nothing() -> None:
    assert torch.allclose(pooled_relevance([torch.zeros(5, 12)] * 3, 2), torch.full((5,), 0.2))


def test_recomputed_attention_is_the_models(
    batch_of: Callable[..., PackedBatch],
    architecture_of: Callable[..., Architecture],
    experts_of: Callable[..., MoaeArchitecture],
) -> None:
    model = build_finetune(architecture_of(experts=experts_of()), {"faces": 3, "clips": 4}, seed=3).double().eval()
    with torch.no_grad():
        for block in model.blocks:
            # Weights of a start make attention all but even, which would hide a wrong scale.
            block.attn.qkv.weight.mul_(8)
    batch, heads = batch_of(), model.arch.num_heads
    mixed: list[Tensor] = []
    handles = [b.attn.proj.register_forward_pre_hook(lambda _, given: mixed.append(given[0])) for b in model.blocks]
    with torch.inference_mode(), traced(model) as trace:
        model(batch)
    for handle in handles:
        handle.remove()
    assert len(trace.qkv) == len(mixed) == model.arch.depth
    uneven = 0.0
    for qkv, output in zip(trace.qkv, mixed, strict=True):
        for one, expected in zip(sequences(qkv, batch.layout), sequences(output, batch.layout), strict=True):
            weights = attention_weights(one, heads)
            value = one.view(len(one), 3, heads, -1)[:, 2].transpose(0, 1)
            assert torch.allclose((weights @ value).transpose(0, 1).flatten(1), expected)
            uneven = max(uneven, float(weights.max() - weights.min()))
    assert uneven > 0.5


def test_hooks_are_gone_afterwards(
    batch_of: Callable[..., PackedBatch], architecture_of: Callable[..., Architecture]
) -> None:
    model = build_finetune(architecture_of(), {"faces": 3, "clips": 4}, seed=3).eval()
    with torch.inference_mode():
        before = model(batch_of()).features
        with traced(model) as trace:
            within = model(batch_of()).features
        after = model(batch_of()).features
    assert torch.equal(before, within) and torch.equal(before, after)
    assert len(trace.qkv) == model.arch.depth
    assert not any(module._forward_hooks for module in model.modules() if isinstance(module, nn.Module))
