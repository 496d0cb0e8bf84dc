"""The released models' pattern of computation on our weights and inputs: one modality at a time, nothing left out.

All tokens are embedded from float frames and all are predicted; a boolean mask takes the visible ones out and puts them
back; targets are floats made from the normalised frames. What masks and targets cost is part of the step, what makes
float frames out of pixels is not: the released data workers do it.

Letters: B samples, N tokens of a sample, V visible ones, D width, P pixel values of a token, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels.philox import NoiseKey
from s4d.analysis.step_peers.release_layers import ReleaseBlock, ReleasePatchEmbed, ReleasePositions, as_clip
from s4d.data.batch import PackedBatch
from s4d.models.classifier import FinetuneModel
from s4d.models.mae import PretrainModel
from s4d.models.release import to_release
from s4d.models.sizes import Architecture
from s4d.models.stream import group_tokens, sequence_ids
from s4d.models.vit import IMAGENET_MEAN, IMAGENET_STD, LAYER_NORM_EPS

TARGET_EPS = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseInputs:
    """Samples of one modality: normalised `frames` (B, 3, H, W) or (B, 3, F, H, W), and what the task needs.

    `mask` (B, N) is true where a token is hidden; `targets` (B, K) are soft; `noise` holds the unit normals (B, N, E)
    of each layer with experts.
    """

    modality: str
    frames: Tensor
    mask: Tensor
    targets: Tensor | None = None
    noise: tuple[Tensor, ...] = ()


class ReleaseEncoder(nn.Module):
    """Embeds all tokens, then keeps the visible ones."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.patch_embed = ReleasePatchEmbed(arch)
        self.positions = ReleasePositions(arch, arch.embed_dim)
        self.blocks = nn.ModuleList(
            ReleaseBlock(arch.embed_dim, arch.num_heads, arch.mlp_ratio) for _ in range(arch.depth)
        )
        self.norm = nn.LayerNorm(arch.embed_dim, eps=LAYER_NORM_EPS)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Frames and mask (B, N) to (B, V, D)."""
        x = self.patch_embed(frames)
        x = x + self.positions.of(x)
        x = x[~mask].reshape(x.shape[0], -1, x.shape[2])
        for block in self.blocks:
            x = block(x)
        output: Tensor = self.norm(x)
        return output


class ReleaseDecoder(nn.Module):
    """Predicts every token, the visible ones too."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        dim = arch.decoder_embed_dim
        self.blocks = nn.ModuleList(
            ReleaseBlock(dim, arch.decoder_num_heads, arch.mlp_ratio) for _ in range(arch.decoder_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(dim, arch.token_values)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, P)."""
        for block in self.blocks:
            x = block(x)
        output: Tensor = self.head(self.norm(x))
        return output


class ReleasePretrain(nn.Module):
    """Masked autoencoder; its forward is the loss of one modality's samples."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.encoder = ReleaseEncoder(arch)
        self.encoder_to_decoder = nn.Linear(arch.embed_dim, arch.decoder_embed_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, arch.decoder_embed_dim))
        self.positions = ReleasePositions(arch, arch.decoder_embed_dim)
        self.decoder = ReleaseDecoder(arch)

    def predict(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Predictions (B, N, P) of all tokens."""
        visible = self.encoder_to_decoder(self.encoder(frames, mask))
        full = self.mask_token.to(visible.dtype).repeat(*mask.shape, 1)
        full[~mask] = visible.reshape(-1, visible.shape[2])
        output: Tensor = self.decoder(full + self.positions.of(full))
        return output

    def forward(self, inputs: ReleaseInputs) -> Tensor:
        """Mean over the hidden tokens of their mean squared error."""
        target = normalised_target(inputs.frames, self.arch)
        error = (self.predict(inputs.frames, inputs.mask) - target).square().mean(-1)
        hidden = inputs.mask.to(error.dtype)
        return (error * hidden).sum() / hidden.sum().clamp(min=1)


class ReleaseFinetune(nn.Module):
    """Classifier with a head per modality; its forward is the loss of one modality's samples."""

    def __init__(self, arch: Architecture, heads: dict[str, int]) -> None:
        super().__init__()
        self.arch = arch
        layers = arch.experts.layers if arch.experts is not None else ()
        self.patch_embed = ReleasePatchEmbed(arch)
        self.positions = ReleasePositions(arch, arch.embed_dim)
        self.blocks = nn.ModuleList(
            ReleaseBlock(arch.embed_dim, arch.num_heads, arch.mlp_ratio, arch.experts if layer in layers else None)
            for layer in range(arch.depth)
        )
        self.fc_norm = nn.LayerNorm(arch.embed_dim, eps=LAYER_NORM_EPS)
        self.head = nn.ModuleDict({name: nn.Linear(arch.embed_dim, classes) for name, classes in heads.items()})

    def logits(self, inputs: ReleaseInputs) -> Tensor:
        """Scores (B, K) by the modality's head."""
        x = self.patch_embed(inputs.frames)
        x = x + self.positions.of(x)
        noise = iter(inputs.noise)
        for block in self.blocks:
            x = block(x, next(noise, None)) if block.moe_layer is not None else block(x)
        output: Tensor = self.head[inputs.modality](self.fc_norm(x.mean(1)))
        return output

    def forward(self, inputs: ReleaseInputs) -> Tensor:
        """Mean cross-entropy with soft targets."""
        assert inputs.targets is not None
        return (-inputs.targets * self.logits(inputs).log_softmax(-1)).sum(-1).mean()


def normalised_target(frames: Tensor, arch: Architecture) -> Tensor:
    """Targets (B, N, P): pixels in [0, 1], per token and channel without mean and spread, channel last in a token."""
    mean, std = (torch.tensor(values).to(frames) for values in (IMAGENET_MEAN, IMAGENET_STD))
    shape = (1, 3) + (1,) * (frames.ndim - 2)
    clip = as_clip(frames * std.view(shape) + mean.view(shape), arch.tubelet_size)
    count, channels, length, side, _ = clip.shape
    tubelet, patch = arch.tubelet_size, arch.patch_size
    cut = clip.view(count, channels, length // tubelet, tubelet, side // patch, patch, side // patch, patch)
    values = cut.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(count, -1, tubelet * patch * patch, channels)
    spread = (values.var(dim=2, unbiased=True, keepdim=True) + TARGET_EPS).sqrt()
    return ((values - values.mean(dim=2, keepdim=True)) / spread).flatten(2)


def release_model(ours: PretrainModel | FinetuneModel) -> ReleasePretrain | ReleaseFinetune:
    """The released pattern with the weights of a model of ours, in its dtype and on its device."""
    model: ReleasePretrain | ReleaseFinetune
    if isinstance(ours, PretrainModel):
        model = ReleasePretrain(ours.arch)
    else:
        model = ReleaseFinetune(ours.arch, {name: len(head.bias) for name, head in ours.head.items()})  # type: ignore[arg-type]
    weight = next(ours.parameters())
    model.to(weight.device, weight.dtype)
    model.load_state_dict(to_release(ours.state_dict()), strict=True)
    return model


def release_inputs(batch: PackedBatch, arch: Architecture, dtype: torch.dtype) -> list[ReleaseInputs]:
    """The batch of ours taken apart by modality: same pixels, same hidden tokens, same targets, same router noise."""
    hidden = torch.zeros(batch.positions.shape[0], dtype=torch.bool, device=batch.positions.device)
    hidden[batch.masked_indices] = True
    noise = _noise(batch, arch, dtype)
    found, first = [], 0
    for group, tokens in zip(batch.groups, group_tokens(batch, batch.layout), strict=True):
        count, span = group.pixels.shape[0], slice(first, first + tokens)
        head = next((head for head in batch.heads if head.modality == group.modality), None)
        found.append(
            ReleaseInputs(
                modality=group.modality,
                frames=_frames(group.pixels, dtype),
                mask=hidden[span].view(count, -1),
                targets=None if head is None else head.targets.to(dtype),
                noise=tuple(layer[span].view(count, -1, layer.shape[1]) for layer in noise),
            )
        )
        first = span.stop
    return found


def _frames(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels (B, F, H, W, 3) as normalised frames; float pixels are normalised already."""
    values = pixels.to(dtype)
    if not pixels.is_floating_point():
        mean, std = (torch.tensor(numbers).to(values) for numbers in (IMAGENET_MEAN, IMAGENET_STD))
        values = (values / 255 - mean) / std
    frames = values.permute(0, 4, 1, 2, 3).contiguous()
    return frames.squeeze(2) if frames.shape[2] == 1 else frames


def _noise(batch: PackedBatch, arch: Architecture, dtype: torch.dtype) -> list[Tensor]:
    """What our layers draw from the batch's keys in training, (T, E) each."""
    experts = arch.experts
    if experts is None or experts.router_noise == "off":
        return []
    sample = batch.noise_keys[sequence_ids(batch.layout, batch.positions.device)]
    keys = (
        NoiseKey(key=batch.layer_keys[layer : layer + 1], sample_key=sample, token=batch.positions)
        for layer in experts.layers
    )
    return [key.normal(experts.num_experts, dtype) for key in keys]
