"""Mixture of adapter experts: small bottleneck MLPs parallel to the dense MLP, a few of them per token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from kernels.moae import Experts, Router, moae
from kernels.philox import NoiseKey
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

    def forward(
        self, x: Tensor, residual: Tensor, noise: RouterNoise | Tensor | None, groups: tuple[int, ...]
    ) -> tuple[Tensor, RoutingTerms]:
        """`residual` plus the gated experts of each token of `x` (T, D); `groups` are host token borders."""
        output, record = moae(
            x,
            Router(
                weight=self.router_weight,
                bias=self.router_bias,
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
            noise=self._noise(noise),
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
