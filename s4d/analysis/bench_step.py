"""Whole training steps as benchmark cases: model sizes, batches in memory and the least work of each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from s4d.analysis.step_work import MODALITIES, step_work, total
from s4d.data.batch import HeadTargets, PackedBatch, PixelGroup
from s4d.data.masking import decoded_count
from s4d.models.sizes import SIZES, Architecture, MoaeArchitecture

CLASSES = {"image": 7, "video": 7}
SMOOTHING = 0.1
_KEPT_SHARE = {"image": 0.10, "video": 0.05}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepShape:
    """Task, model size, samples of each modality, their frames of S x S pixels, and how much an expert may serve.

    `decode_ratio` is the share of the masked tokens that the decoder, `joint` or `cross`, predicts.
    """

    task: str
    size: str
    images: int
    clips: int
    side: int = 160
    frames: int = 16
    capacity_factor: float | None = None
    decoder: str = "joint"
    decode_ratio: float = 1.0

    @property
    def samples(self) -> dict[str, int]:
        """Samples by modality."""
        return {"image": self.images, "video": self.clips}

    def architecture(self) -> Architecture:
        """The released architecture of the size; fine-tuning has experts in the upper half of the blocks."""
        size = SIZES[self.size]
        experts = None
        if self.task == "finetune":
            layers = tuple(range(size.depth // 2, size.depth))
            experts = MoaeArchitecture(
                layers=layers,
                num_experts=8,
                top_k=2,
                hidden_dim=size.embed_dim // 4,
                capacity_factor=self.capacity_factor,
            )
        return Architecture(
            **dataclasses.asdict(size),
            experts=experts,
            image_size=self.side,
            num_frames=self.frames,
            decoder=self.decoder,
        )


def kept_tokens(shape: StepShape, arch: Architecture, modality: str) -> int:
    """Tokens of a sample that the encoder sees: the released share in pre-training, all in fine-tuning."""
    tokens = arch.tokens(modality)
    return tokens if shape.task == "finetune" else max(1, round(tokens * _KEPT_SHARE[modality]))


def decoded_tokens(shape: StepShape, arch: Architecture, modality: str) -> int:
    """Tokens of a sample that are predicted."""
    return decoded_count(arch.tokens(modality) - kept_tokens(shape, arch, modality), shape.decode_ratio)


def random_batch(shape: StepShape, arch: Architecture) -> PackedBatch:
    """Random pixels, and classes in fine-tuning; pre-training keeps the released shares of tokens, fine-tuning all."""
    generator = torch.Generator().manual_seed(0)
    groups, visible, masked, layout, seen, positions, hidden = [], [], [], [], [], [], []
    first = 0
    for modality, count in shape.samples.items():
        if not count:
            continue
        tokens, frames = arch.tokens(modality), 1 if modality == "image" else arch.num_frames
        size = (count, frames, arch.image_size, arch.image_size, 3)
        pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        ids = tuple(f"{modality}{index}" for index in range(count))
        groups.append(PixelGroup(pixels=pixels, modality=modality, sample_ids=ids))
        kept = kept_tokens(shape, arch, modality)
        order = torch.rand(count, tokens, generator=generator).argsort(1)
        starts = first + tokens * torch.arange(count)[:, None]
        visible.append((order[:, :kept].sort(1).values + starts).flatten())
        wanted = decoded_tokens(shape, arch, modality)
        masked.append((order[:, kept : kept + wanted].sort(1).values + starts).flatten())
        positions.append(torch.arange(tokens).repeat(count))
        layout.append((count, tokens))
        seen.append((count, kept))
        hidden.append((count, wanted))
        first += count * tokens
    samples = shape.images + shape.clips
    return PackedBatch(
        groups=tuple(groups),
        cu_seqlens=_borders(layout),
        max_seqlen=max(length for _, length in layout),
        layout=tuple(layout),
        visible_indices=torch.cat(visible),
        masked_indices=torch.cat(masked),
        cu_seqlens_visible=_borders(seen),
        max_seqlen_visible=max(length for _, length in seen),
        layout_visible=tuple(seen),
        positions=torch.cat(positions),
        modality=torch.tensor([0] * shape.images + [1] * shape.clips),
        heads=_heads(shape, generator) if shape.task == "finetune" else (),
        step_samples=shape.samples,
        noise_keys=torch.arange(samples),
        layer_keys=torch.arange(arch.depth),
        layout_masked=tuple(hidden) if shape.decode_ratio < 1 else None,
    )


def _borders(layout: list[tuple[int, int]]) -> Tensor:
    lengths = torch.tensor([length for count, length in layout for _ in range(count)])
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def _heads(shape: StepShape, generator: torch.Generator) -> tuple[HeadTargets, ...]:
    """Random classes with label smoothing; a head without samples is there too, as in training."""
    heads, first = [], 0
    for modality, count in shape.samples.items():
        classes = torch.randint(0, CLASSES[modality], (count,), generator=generator)
        targets = torch.full((count, CLASSES[modality]), SMOOTHING / CLASSES[modality])
        targets[torch.arange(count), classes] += 1 - SMOOTHING
        sequences = torch.arange(first, first + count)
        heads.append(HeadTargets(head=modality, modality=modality, sequences=sequences, targets=targets))
        first += count
    return tuple(heads)


def step_flops(shape: StepShape) -> float:
    """FLOPs of forward and backward that a step cannot do without: visible tokens embedded, masked ones predicted."""
    arch = shape.architecture()
    kept = {name: kept_tokens(shape, arch, name) for name in MODALITIES}
    decoded = {name: decoded_tokens(shape, arch, name) for name in MODALITIES}
    work = total(step_work(arch, shape.task, shape.samples, kept, decoded=decoded, classes=sum(CLASSES.values())))
    return work.forward.flops + work.backward.flops


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCase:
    """One batch to train on; `defaults` are the device types on which it runs without being asked for by name."""

    name: str
    shape: StepShape
    defaults: frozenset[str] = frozenset()


def _case(name: str, task: str, images: int, clips: int, *defaults: str, capacity: float | None = None) -> StepCase:
    shape = StepShape(task=task, size="base", images=images, clips=clips, capacity_factor=capacity)
    return StepCase(name=name, shape=shape, defaults=frozenset(defaults))


# The released limit on an expert's tokens counts over one modality's batch: packed steps cannot have it, and both
# sides serve all tokens there.
CASES = {
    case.name: case
    for case in (
        _case("pretrain_8_clips", "pretrain", 0, 8, "cpu"),
        _case("finetune_4_clips", "finetune", 0, 4, "cpu", capacity=1.0),
        _case("pretrain_8_8", "pretrain", 8, 8),
        _case("finetune_4_4", "finetune", 4, 4),
        _case("finetune_4_clips_dropless", "finetune", 0, 4),
        _case("pretrain_192_192", "pretrain", 192, 192, "cuda"),
        _case("finetune_16_16", "finetune", 16, 16, "cuda"),
        _case("pretrain_192_clips", "pretrain", 0, 192, "cuda"),
        _case("pretrain_1024_images", "pretrain", 1024, 0, "cuda"),
        _case("finetune_64_clips", "finetune", 0, 64, "cuda"),
        StepCase(name="tiny", shape=StepShape(task="pretrain", size="tiny", images=1, clips=1, side=32, frames=4)),
        StepCase(
            name="tiny_finetune", shape=StepShape(task="finetune", size="tiny", images=1, clips=1, side=32, frames=4)
        ),
    )
}
