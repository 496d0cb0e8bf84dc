"""Layers that compute as the released code does: dense (B, N, D) tensors, explicit softmax attention, looped experts.

Parameters have the released names, so that a released state dict fits. Written from a description of that code.

Letters: B samples of one modality, N tokens of a sample, D width, H heads, E experts, k choices of a token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4d.models.positions import sinusoid_table
from s4d.models.sizes import Architecture, MoaeArchitecture
from s4d.models.vit import LAYER_NORM_EPS


class ReleasePatchEmbed(nn.Module):
    """Every tubelet of float frames through one convolution; a still image is repeated to a whole tubelet first."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        kernel = (arch.tubelet_size, arch.patch_size, arch.patch_size)
        self.tubelet_size = arch.tubelet_size
        self.proj = nn.Conv3d(3, arch.embed_dim, kernel_size=kernel, stride=kernel)

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised (B, 3, H, W) or (B, 3, F, H, W) to (B, N, D)."""
        tokens: Tensor = self.proj(as_clip(frames, self.tubelet_size)).flatten(2).transpose(1, 2)
        return tokens


def as_clip(frames: Tensor, tubelet_size: int) -> Tensor:
    """A still image as a clip of one tubelet; a clip as it is."""
    return frames.unsqueeze(2).repeat(1, 1, tubelet_size, 1, 1) if frames.ndim == 4 else frames


class ReleasePositions:
    """Position table outside the state dict: it lies on the host and is copied in every forward."""

    def __init__(self, arch: Architecture, dim: int) -> None:
        self.table = sinusoid_table(arch.position_tokens, dim)[None]

    def of(self, tokens: Tensor) -> Tensor:
        """Rows (1, N, D) for (B, N, D) tokens: of a still image the first temporal slice."""
        return self.table[:, : tokens.shape[1]].type_as(tokens).to(tokens.device).clone().detach()


class ReleaseAttention(nn.Module):
    """Scores, softmax and mixture as three operations, all of them in memory."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        count, tokens, dim = x.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias).reshape(count, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = (qkv[0] * self.scale) @ qkv[1].transpose(-2, -1)
        mixed = scores.softmax(dim=-1) @ qkv[2]
        output: Tensor = self.proj(mixed.transpose(1, 2).reshape(count, tokens, dim))
        return output


class ReleaseMlp(nn.Module):
    """Two linear layers with exact GELU between them: the dense MLP, and each expert."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        output: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return output


class ReleaseRouter(nn.Module):
    """Noisy top-k: the scores of the other experts become -inf before the softmax."""

    def __init__(self, dim: int, moae: MoaeArchitecture) -> None:
        super().__init__()
        self.top_k = moae.top_k
        self.topkroute_linear = nn.Linear(dim, moae.num_experts)
        self.noise_linear = nn.Linear(dim, moae.num_experts) if moae.router_noise != "off" else None

    def forward(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gates (B, N, E) and choices (B, N, k) of (B, N, D); `noise` are unit normals (B, N, E)."""
        scores = self.topkroute_linear(x)
        if self.noise_linear is not None and noise is not None:
            scores = scores + noise * F.softplus(self.noise_linear(x))
        best, chosen = scores.topk(self.top_k, dim=-1)
        gates = torch.full_like(scores, -torch.inf).scatter(-1, chosen, best).softmax(dim=-1)
        return gates, chosen


class ReleaseExperts(nn.Module):
    """One expert after the other on the rows that `nonzero` finds; each serves the first so many, in token order."""

    def __init__(self, dim: int, moae: MoaeArchitecture) -> None:
        super().__init__()
        self.top_k = moae.top_k
        self.capacity_factor = moae.capacity_factor
        self.router = ReleaseRouter(dim, moae)
        self.experts = nn.ModuleList(ReleaseMlp(dim, moae.hidden_dim) for _ in range(moae.num_experts))

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        gates, chosen = self.router(x, noise)
        tokens, gates, chosen = x.flatten(0, 1), gates.flatten(0, 1), chosen.flatten(0, 1)
        room = tokens.shape[0]
        if self.capacity_factor is not None:
            room = int(tokens.shape[0] * self.top_k / len(self.experts) * self.capacity_factor)
        output = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            rows = torch.nonzero((chosen == number).any(-1)).squeeze(1)[:room]
            if rows.numel() > 0:
                served = expert(tokens[rows]) * gates[rows, number, None]
                output.index_add_(0, rows, served.to(output.dtype))
        return output.view_as(x)


class ReleaseBlock(nn.Module):
    """Pre-norm block, in the upper layers with experts beside the MLP."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int, moae: MoaeArchitecture | None = None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = ReleaseAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = ReleaseMlp(dim, dim * mlp_ratio)
        self.moe_layer = ReleaseExperts(dim, moae) if moae is not None else None

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        x = x + self.attn(self.norm1(x))
        y = self.norm2(x)
        if self.moe_layer is None:
            return x + self.mlp(y)
        return x + (self.mlp(y) + self.moe_layer(y, noise))
