"""Whole training steps as benchmark cases: forward and backward of the models on packed batches in memory.

The peers are the backends that the ops pick by themselves and plain PyTorch in their place, in the same model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kernels.bench.floors import with_both
from kernels.bench.records import Case, Floors, Op, Peer, Run
from s4d.analysis.step_work import step_work
from s4d.data.batch import PackedBatch, PixelGroup
from s4d.models.build import build_finetune, build_pretrain
from s4d.models.classifier import FinetuneModel
from s4d.models.mae import PretrainModel
from s4d.models.sizes import SIZES, Architecture, MoaeArchitecture

_CLASSES = 7
_PLAIN = {"attention": "sdpa", "moae": "grouped", "patch": "reference", "reconstruction": "reference"}
_KEPT_SHARE = {"image": 0.10, "video": 0.05}
_MODALITIES = ("image", "video")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepShape:
    """Task, model size, samples of each modality, and their frames of S x S pixels."""

    task: str
    size: str
    images: int
    clips: int
    side: int = 160
    frames: int = 16

    def architecture(self) -> Architecture:
        """The released architecture of the size; fine-tuning has experts in the upper half of the blocks."""
        size = SIZES[self.size]
        experts = None
        if self.task == "finetune":
            layers = tuple(range(size.depth // 2, size.depth))
            experts = MoaeArchitecture(layers=layers, num_experts=8, top_k=2, hidden_dim=size.embed_dim // 4)
        return Architecture(**dataclasses.asdict(size), experts=experts, image_size=self.side, num_frames=self.frames)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInputs:
    """A batch on the device and what the model is built from."""

    batch: PackedBatch
    shape: StepShape
    device: torch.device
    dtype: torch.dtype


def kept_tokens(shape: StepShape, arch: Architecture, modality: str) -> int:
    """Tokens of a sample that the encoder sees: the released share in pre-training, all in fine-tuning."""
    tokens = arch.tokens(modality)
    return tokens if shape.task == "finetune" else max(1, round(tokens * _KEPT_SHARE[modality]))


def random_batch(shape: StepShape, arch: Architecture) -> PackedBatch:
    """Random pixels; pre-training keeps the released shares of tokens, fine-tuning all of them."""
    generator = torch.Generator().manual_seed(0)
    groups, visible, masked, layout, seen, positions = [], [], [], [], [], []
    first = 0
    for modality, count in zip(_MODALITIES, (shape.images, shape.clips), strict=True):
        tokens, frames = arch.tokens(modality), 1 if modality == "image" else arch.num_frames
        size = (count, frames, arch.image_size, arch.image_size, 3)
        pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        ids = tuple(f"{modality}{index}" for index in range(count))
        groups.append(PixelGroup(pixels=pixels, modality=modality, sample_ids=ids))
        kept = kept_tokens(shape, arch, modality)
        order = torch.rand(count, tokens, generator=generator).argsort(1)
        starts = first + tokens * torch.arange(count)[:, None]
        visible.append((order[:, :kept].sort(1).values + starts).flatten())
        masked.append((order[:, kept:].sort(1).values + starts).flatten())
        positions.append(torch.arange(tokens).repeat(count))
        layout.append((count, tokens))
        seen.append((count, kept))
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
        heads=(),
        step_samples=dict(zip(_MODALITIES, (shape.images, shape.clips), strict=True)),
        seed=0,
        epoch=0,
        noise_keys=torch.arange(samples),
    )


def _borders(layout: list[tuple[int, int]]) -> Tensor:
    lengths = torch.tensor([length for count, length in layout for _ in range(count)])
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def _inputs(shape: StepShape, device: torch.device, dtype: torch.dtype) -> StepInputs:
    return StepInputs(
        batch=random_batch(shape, shape.architecture()).to(device), shape=shape, device=device, dtype=dtype
    )


def _build(inputs: StepInputs, backends: Mapping[str, str]) -> Run:
    arch = inputs.shape.architecture()
    model: PretrainModel | FinetuneModel
    if inputs.shape.task == "pretrain":
        model = build_pretrain(arch, 0, backends)
    else:
        model = build_finetune(arch, dict.fromkeys(_MODALITIES, _CLASSES), 0, backends)
    model.to(inputs.device, inputs.dtype).train()
    loss_of = _pretrain_loss if isinstance(model, PretrainModel) else _finetune_loss
    return Run(
        forward=lambda: (loss_of(model, inputs.batch),),
        leaves=tuple(model.parameters()),
        upstream=(torch.ones((), device=inputs.device),),
        results=lambda outputs, gradients: {},
    )


def _pretrain_loss(model: Any, batch: PackedBatch) -> Tensor:
    sums: dict[str, Tensor] = model(batch)
    return torch.stack(list(sums.values())).sum() / batch.masked_indices.shape[0]


def _finetune_loss(model: Any, batch: PackedBatch) -> Tensor:
    logits: dict[str, Tensor] = model(batch).logits
    target = torch.zeros(batch.num_sequences, dtype=torch.int64, device=batch.modality.device)
    return torch.stack([cross_entropy(each, target) for each in logits.values()]).sum()


def _peers(case: Case) -> Iterator[Peer]:
    yield Peer(name="automatic", build=lambda inputs: _build(inputs, {}), backend=True, rival=False)
    yield Peer(name="plain", build=lambda inputs: _build(inputs, _PLAIN))


def _floors(shape: StepShape, dtype: torch.dtype) -> Floors:
    arch = shape.architecture()
    kept = {name: kept_tokens(shape, arch, name) for name in _MODALITIES}
    samples = dict(zip(_MODALITIES, (shape.images, shape.clips), strict=True))
    classes = _CLASSES * len(_MODALITIES)
    parts = step_work(arch, shape.task, samples, kept, element_bytes=dtype.itemsize, classes=classes).values()
    return with_both(tuple(part.forward for part in parts), tuple(part.backward for part in parts))


def _case(name: str, shape: StepShape, *defaults: str) -> Case:
    return Case(
        name=name,
        op="step",
        inputs=lambda device, dtype: _inputs(shape, device, dtype),
        floors=lambda dtype: _floors(shape, dtype),
        defaults=frozenset(defaults),
        dtypes={"cpu": (torch.bfloat16,), "cuda": (torch.bfloat16,)},
    )


CASES = {
    case.name: case
    for case in (
        _case("pretrain_192_192", StepShape(task="pretrain", size="base", images=192, clips=192), "cuda"),
        _case("finetune_16_16", StepShape(task="finetune", size="base", images=16, clips=16), "cuda"),
        _case("pretrain_small", StepShape(task="pretrain", size="small", images=4, clips=4), "cpu"),
        _case("finetune_small", StepShape(task="finetune", size="small", images=2, clips=2), "cpu"),
        _case("tiny", StepShape(task="pretrain", size="tiny", images=1, clips=1, side=32, frames=4)),
    )
}

STEP = Op(name="step", cases=CASES, peers=_peers, expected=None, automatic=lambda inputs: "automatic")
