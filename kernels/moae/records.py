"""What an MoAE call takes and returns. Letters: T tokens, D width, E experts, Hd hidden width, k chosen, G groups."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kernels.moae.plan import RoutingPlan
from kernels.philox import NoiseKey


def _check(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"{name}: expected {shape}, got {tuple(value.shape)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Router:
    """Linear map to expert scores, ``weight`` (E, D) and ``bias`` (E,), and the one to the spread of their noise."""

    weight: Tensor
    bias: Tensor
    noise_weight: Tensor | None = None
    noise_bias: Tensor | None = None

    def __post_init__(self) -> None:
        if self.weight.ndim != 2:
            raise ValueError(f"Router.weight: expected (E, D), got {tuple(self.weight.shape)}")
        _check("Router.bias", self.bias, (self.weight.shape[0],))
        if (self.noise_weight is None) != (self.noise_bias is None):
            raise ValueError("Router: expected noise_weight and noise_bias together, got one of them")
        if self.noise_weight is not None and self.noise_bias is not None:
            _check("Router.noise_weight", self.noise_weight, tuple(self.weight.shape))
            _check("Router.noise_bias", self.noise_bias, tuple(self.bias.shape))


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """Stacked bottleneck adapters: fc1 (E, Hd, D) with bias (E, Hd), exact GELU, fc2 (E, D, Hd) with bias (E, D)."""

    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor

    def __post_init__(self) -> None:
        if self.fc1_weight.ndim != 3:
            raise ValueError(f"Experts.fc1_weight: expected (E, Hd, D), got {tuple(self.fc1_weight.shape)}")
        num_experts, hidden, width = self.fc1_weight.shape
        _check("Experts.fc1_bias", self.fc1_bias, (num_experts, hidden))
        _check("Experts.fc2_weight", self.fc2_weight, (num_experts, width, hidden))
        _check("Experts.fc2_bias", self.fc2_bias, (num_experts, width))

    @property
    def num_experts(self) -> int:
        """E."""
        return int(self.fc1_weight.shape[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class MoAERequest:
    """A checked call beside its learned tensors; ``groups`` run from 0 to T, ``capacity`` is in tokens or None."""

    top_k: int
    capacity: int | None
    noise: Tensor | NoiseKey | None
    groups: tuple[int, ...]
    residual: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class MoAERecord:
    """How the tokens were routed, and the two halves of the balance loss.

    ``router_logits`` (T, E) with noise, ``gates`` (T, k) and ``prob_sums`` (G, E), the sums over a group's tokens of
    softmax(router_logits), carry gradients and are float32 or wider; ``counts`` (G, E) int64 are the assignments of a
    group before capacity drops.
    """

    plan: RoutingPlan
    router_logits: Tensor
    gates: Tensor
    counts: Tensor
    prob_sums: Tensor

    def __post_init__(self) -> None:
        tokens, num_experts = self.router_logits.shape
        _check("MoAERecord.gates", self.gates, tuple(self.plan.topk_expert_ids.shape))
        _check("MoAERecord.gates", self.gates, (tokens, self.gates.shape[1]))
        _check("MoAERecord.counts", self.counts, (self.counts.shape[0], num_experts))
        _check("MoAERecord.prob_sums", self.prob_sums, tuple(self.counts.shape))
