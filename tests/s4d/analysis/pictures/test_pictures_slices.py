"""The pooled classifier taken apart by temporal slice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from s4d.analysis.pictures.activation import slice_features, slice_probabilities
from s4d.analysis.pictures.trace import sequences, traced
from s4d.data.batch import PackedBatch
from s4d.models.build import build_finetune
from s4d.models.sizes import Architecture


def test_slices_add_up_to_the_pooled_feature(
    batch_of: Callable[..., PackedBatch], architecture_of: Callable[..., Architecture]
) -> None:
    model = build_finetune(architecture_of(), {"faces": 3, "clips": 4}, seed=3).double().eval()
    batch = batch_of(range(0), range(3))
    pooled: list[Tensor] = []
    handle = model.fc_norm.register_forward_pre_hook(lambda _, given: pooled.append(given[0]))
    with torch.inference_mode(), traced(model) as trace:
        output = model(batch)
    handle.remove()
    assert trace.tokens is not None
    for number, tokens in enumerate(sequences(trace.tokens, batch.layout)):
        slices = slice_features(tokens, 2)
        assert slices.shape == (2, 64)
        assert torch.allclose(slices.mean(0), pooled[0][number])
        # One slice is the whole: what the head says of the sample.
        with torch.inference_mode():
            whole = slice_probabilities(model, tokens, 1, "clips")
            parts = slice_probabilities(model, tokens, 2, "clips")
        assert torch.allclose(whole[0], output.logits["clips"][number].softmax(0))
        assert torch.allclose(parts.sum(1), torch.ones(2, dtype=torch.float64))


def test_a_slice_is_a_run_of_tokens() -> None:
    tokens = torch.arange(24, dtype=torch.float64).view(12, 2)
    assert slice_features(tokens, 3).tolist() == [[3.0, 4.0], [11.0, 12.0], [19.0, 20.0]]
