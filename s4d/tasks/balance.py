"""Load balance of the adapter experts: value and gradient depend on the step's samples, not on how ranks share them.

Letters: L MoAE layers, G modalities (image, video), E experts, B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from s4d.data.batch import MODALITIES
from s4d.models.moae import RoutingTerms
from s4d.models.stream import Layout, mean_per_sequence, sequence_ids


def choice_counts(routing: tuple[RoutingTerms, ...]) -> Tensor:
    """Tokens that chose each expert, (L, G, E) int64."""
    return torch.stack([terms.counts for terms in routing])


def switch_shares(
    routing: tuple[RoutingTerms, ...], step_counts: Tensor, step_tokens: Mapping[str, int], top_k: int
) -> dict[str, Tensor]:
    """This batch's share of E * sum_e f_e * P_e, summed over layers, for each modality of the step.

    f_e is the share of the step's choices that fell on e, from `step_counts` (L, G, E) over ranks and accumulation; P_e
    the mean softmax probability over the step's tokens, of which this batch contributes its own.
    """
    shares = {}
    for index, modality in enumerate(MODALITIES):
        tokens = step_tokens.get(modality, 0)
        if tokens:
            sums = torch.stack([terms.prob_sums[index] for terms in routing])
            fractions = step_counts[:, index].to(sums.dtype) / (top_k * tokens)
            shares[modality] = sums.shape[1] * (fractions * sums / tokens).sum()
    return shares


def release_shares(
    routing: tuple[RoutingTerms, ...], layout: Layout, images: int, step_samples: Mapping[str, int]
) -> dict[str, Tensor]:
    """This batch's share of the released formula: E^2 * mean over samples and experts of f * P, summed over layers.

    f is the share of a sample's tokens with the expert among their choices, P the mean of the raw logits the choice was
    made on. The first `images` sequences are still images.
    """
    per_sample = sum(_release_per_sample(terms, layout) for terms in routing)
    assert isinstance(per_sample, Tensor)
    parts = {"image": per_sample[:images], "video": per_sample[images:]}
    return {name: parts[name].sum() / count for name, count in step_samples.items() if count}


def _release_per_sample(terms: RoutingTerms, layout: Layout) -> Tensor:
    logits = terms.router_logits
    chosen = torch.zeros_like(logits).scatter(1, terms.expert_ids, 1.0)
    chosen_share = mean_per_sequence(chosen, layout)
    return logits.shape[1] * (chosen_share * mean_per_sequence(logits, layout)).sum(1)


def choices_per_sequence(terms: RoutingTerms, layout: Layout, sequences: int) -> Tensor:
    """How often each sequence's tokens chose each expert, (B, E) int64."""
    experts = terms.router_logits.shape[1]
    owner = sequence_ids(layout, terms.expert_ids.device)
    cells = (owner[:, None] * experts + terms.expert_ids).flatten()
    counts = torch.zeros(sequences * experts, dtype=torch.int64, device=cells.device)
    # Integer addition, so the order of the updates does not matter.
    return counts.scatter_add_(0, cells, torch.ones_like(cells)).view(sequences, experts)
