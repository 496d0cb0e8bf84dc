"""Mixture of adapter experts: small bottleneck MLPs parallel to the dense MLP, a few of them per token."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.moae import Experts, Router, moae
from kernels.philox import NoiseKey
from s4d.data.batch import MODALITIES
from s4d.models.sizes import MoaeArchitecture
from s4d.models.stream import RouterNoise


class RoutingTerms(NamedTuple):
    """What one MoAE layer reports: choices and gates of each token, and the sums behind the balance terms.

    Letters: T tokens, k choices, E experts, G groups (still images, clips). `counts` (G, E) int64 are tokens that chose
    an expert, `prob_sums` (G, E) sums of softmax probabilities, `router_logits` (T, E) the logits the choice was made
    on.
    """

    expert_ids: Tensor
    gates: Tensor
    router_logits: Tensor
    counts: Tensor
    prob_sums: Tensor


class SharedExperts(nn.Module):
    """Experts that serve every token with gate 1; as the sum of n adapters is one of n times the width, they are one.

    They hold what all tokens have in common, which the routed experts then need not each learn (Dai et al.,
    "DeepSeekMoE", 2024).
    """

    def __init__(self, embed_dim: int, hidden_dim: int, zero_init: bool) -> None:
        super().__init__()
        self.zero_init = zero_init
        self.fc1_weight = nn.Parameter(torch.empty(hidden_dim, embed_dim))
        self.fc1_bias = nn.Parameter(torch.empty(hidden_dim))
        self.fc2_weight = nn.Parameter(torch.empty(embed_dim, hidden_dim))
        self.fc2_bias = nn.Parameter(torch.empty(embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        """(T, D) to (T, D)."""
        hidden = F.gelu(F.linear(x, self.fc1_weight, self.fc1_bias))
        return F.linear(hidden, self.fc2_weight, self.fc2_bias)


class MoaeAdapters(nn.Module):
    """Router and stacked experts of one block; owns every tensor that its forward uses."""

    def __init__(self, embed_dim: int, moae: MoaeArchitecture, backend: str | None = None) -> None:
        super().__init__()
        experts, hidden = moae.num_experts, moae.hidden_dim
        self.top_k = moae.top_k
        self.capacity_factor = moae.capacity_factor
        self.router_noise = moae.router_noise
        self.zero_init = moae.zero_init
        self.backend = backend
        self.router_weight = nn.Parameter(torch.empty(experts, embed_dim))
        self.router_bias = nn.Parameter(torch.empty(experts))
        noisy = moae.router_noise != "off"
        self.noise_weight = nn.Parameter(torch.empty(experts, embed_dim)) if noisy else None
        self.noise_bias = nn.Parameter(torch.empty(experts)) if noisy else None
        self.fc1_weight = nn.Parameter(torch.empty(experts, hidden, embed_dim))
        self.fc1_bias = nn.Parameter(torch.empty(experts, hidden))
        self.fc2_weight = nn.Parameter(torch.empty(experts, embed_dim, hidden))
        self.fc2_bias = nn.Parameter(torch.empty(experts, embed_dim))
        self.modality_bias = nn.Parameter(torch.empty(len(MODALITIES), experts)) if moae.modality_prior else None
        self.shared: SharedExperts | None = None
        if moae.shared_experts:
            self.shared = SharedExperts(embed_dim, moae.shared_experts * hidden, moae.zero_init)

    def forward(
        self, x: Tensor, residual: Tensor, noise: RouterNoise | Tensor | None, groups: tuple[int, ...]
    ) -> tuple[Tensor, RoutingTerms]:
        """`residual` plus the experts of each token of `x` (T, D); `groups` are host borders of the modalities."""
        if self.shared is not None:
            residual = residual + self.shared(x)
        keyed = self._noise(noise)
        if self.modality_bias is None:
            return self._routed(x, residual, self.router_bias, keyed, groups)
        return self._by_modality(x, residual, self.router_bias + self.modality_bias, keyed, groups)

    def _by_modality(
        self, x: Tensor, residual: Tensor, biases: Tensor, noise: NoiseKey | Tensor | None, groups: tuple[int, ...]
    ) -> tuple[Tensor, RoutingTerms]:
        """Each modality under its own router bias, a row of `biases` (G, E).

        A token is served without regard to the others as long as experts have room for all of them, so one call for
        each modality is one call with a bias for each token.
        """
        outputs, parts = [], []
        for bias, (start, end) in zip(biases, pairwise(groups), strict=True):
            if start < end:
                span = slice(start, end)
                # All borders, of which the other modalities' lie at the ends: their balance sums are rows of zeros.
                inside = tuple(min(max(border, start), end) - start for border in groups)
                output, terms = self._routed(x[span], residual[span], bias, _part_of(noise, span), inside)
                outputs.append(output)
                parts.append(terms)
        return torch.cat(outputs), _joined(parts)

    def _routed(
        self, x: Tensor, residual: Tensor, bias: Tensor, noise: NoiseKey | Tensor | None, groups: tuple[int, ...]
    ) -> tuple[Tensor, RoutingTerms]:
        output, record = moae(
            x,
            Router(
                weight=self.router_weight,
                bias=bias,
                noise_weight=self.noise_weight,
                noise_bias=self.noise_bias,
            ),
            Experts(
                fc1_weight=self.fc1_weight,
                fc1_bias=self.fc1_bias,
                fc2_weight=self.fc2_weight,
                fc2_bias=self.fc2_bias,
            ),
            top_k=self.top_k,
            capacity_factor=self.capacity_factor,
            noise=noise,
            groups=groups,
            residual=residual,
            backend=self.backend,
        )
        terms = RoutingTerms(
            expert_ids=record.plan.topk_expert_ids,
            gates=record.gates,
            router_logits=record.router_logits,
            counts=record.counts,
            prob_sums=record.prob_sums,
        )
        return output, terms

    def _noise(self, noise: RouterNoise | Tensor | None) -> NoiseKey | Tensor | None:
        if self.router_noise == "off" or (self.router_noise == "train" and not self.training):
            return None
        if not isinstance(noise, RouterNoise):
            return noise
        return NoiseKey(key=noise.key, sample_key=noise.sample_key, token=noise.token)


def _joined(parts: list[RoutingTerms]) -> RoutingTerms:
    """Terms of runs of tokens as those of all tokens."""
    ids, gates, logits, counts, prob_sums = zip(*parts, strict=True)
    return RoutingTerms(
        expert_ids=torch.cat(ids),
        gates=torch.cat(gates),
        router_logits=torch.cat(logits),
        counts=torch.stack(counts).sum(0),
        prob_sums=torch.stack(prob_sums).sum(0),
    )


def _part_of(noise: NoiseKey | Tensor | None, span: slice) -> NoiseKey | Tensor | None:
    """The noise of a run of tokens."""
    if isinstance(noise, NoiseKey):
        return NoiseKey(key=noise.key, sample_key=noise.sample_key[span], token=noise.token[span])
    return noise if noise is None else noise[span]
