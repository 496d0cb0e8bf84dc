"""Hand-made packed batches of random pixels, small enough for float64 on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kernels.philox import layer_key
from s4d.data.batch import HeadTargets, PackedBatch, PixelGroup
from s4d.models.sizes import Architecture, MoaeArchitecture

CLASSES = {"faces": 3, "clips": 4}


def make_architecture(**changes: object) -> Architecture:
    values: dict[str, object] = {
        "embed_dim": 64,
        "depth": 3,
        "num_heads": 2,
        "decoder_embed_dim": 32,
        "decoder_depth": 2,
        "decoder_num_heads": 1,
        "image_size": 32,
        "num_frames": 4,
        "position_frames": 4,
    }
    return Architecture(**{**values, **changes})  # type: ignore[arg-type]


def make_experts(**changes: object) -> MoaeArchitecture:
    values: dict[str, object] = {"layers": (1, 2), "num_experts": 4, "top_k": 2, "hidden_dim": 16, "zero_init": False}
    return MoaeArchitecture(**{**values, **changes})  # type: ignore[arg-type]


def make_batch(
    images: range = range(2),
    clips: range = range(2),
    *,
    masked: dict[str, int] | None = None,
    decoded: dict[str, int] | None = None,
    step_samples: dict[str, int] | None = None,
    drop_path: float = 0.0,
    depth: int = 3,
) -> PackedBatch:
    """Images and clips by number: pixels, masks, labels and noise depend on a sample's number, not on its neighbours.

    `masked` gives masked tokens per sample and modality (pre-training); None makes every token visible (fine-tuning).
    `decoded` says how many of them are predicted, if not all.
    """
    groups, lengths, hidden_counts, visible, hidden, positions, keys, keep = [], [], [], [], [], [], [], []
    wanted_counts = []
    first = 0
    for modality, numbers, frames in (("image", images, 1), ("video", clips, 4)):
        tokens = 4 * max(1, frames // 2)
        pixels = []
        for number in numbers:
            generator = torch.Generator().manual_seed(1000 * frames + number)
            pixels.append(torch.randint(0, 256, (frames, 32, 32, 3), generator=generator, dtype=torch.uint8))
            order = torch.randperm(tokens, generator=generator)
            count = 0 if masked is None else masked[modality]
            wanted_counts.append(count if decoded is None else decoded[modality])
            hidden.append(first + order[: wanted_counts[-1]].sort().values)
            visible.append(first + order[count:].sort().values)
            hidden_counts.append(count)
            lengths.append(tokens)
            positions.append(torch.arange(tokens))
            keys.append(100 * frames + number)
            dropped = torch.rand(depth, generator=generator) < drop_path
            keep.append((~dropped).to(torch.float32) / (1 - drop_path))
            first += tokens
        if len(numbers):
            ids = tuple(f"{modality}{number}" for number in numbers)
            groups.append(PixelGroup(pixels=torch.stack(pixels), modality=modality, sample_ids=ids))
    seen = [length - count for length, count in zip(lengths, hidden_counts, strict=True)]
    return PackedBatch(
        groups=tuple(groups),
        cu_seqlens=cumulative(lengths),
        max_seqlen=max(lengths),
        layout=runs(lengths),
        visible_indices=torch.cat(visible),
        masked_indices=torch.cat(hidden),
        cu_seqlens_visible=cumulative(seen),
        max_seqlen_visible=max(seen),
        layout_visible=runs(seen),
        positions=torch.cat(positions),
        modality=torch.tensor([0] * len(images) + [1] * len(clips)),
        heads=() if masked is not None else make_heads(images, clips),
        step_samples=step_samples or {"image": len(images), "video": len(clips)},
        noise_keys=torch.tensor(keys),
        layer_keys=torch.tensor([layer_key(5, 2, layer) for layer in range(depth)]),
        drop_path_keep=torch.stack(keep, dim=1) if drop_path else None,
        layout_masked=None if decoded is None else runs(wanted_counts),
    )


def make_heads(images: range, clips: range) -> tuple[HeadTargets, ...]:
    heads = []
    for head, modality, numbers, first in (("faces", "image", images, 0), ("clips", "video", clips, len(images))):
        classes = CLASSES[head]
        targets = torch.full((len(numbers), classes), 0.1 / classes)
        for row, number in enumerate(numbers):
            targets[row, number % classes] += 0.9
        sequences = torch.arange(first, first + len(numbers))
        heads.append(HeadTargets(head=head, modality=modality, sequences=sequences, targets=targets))
    return tuple(heads)


def runs(lengths: list[int]) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for length in lengths:
        if found and found[-1][1] == length:
            found[-1] = (found[-1][0] + 1, length)
        else:
            found.append((1, length))
    return tuple(found)


def cumulative(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


@pytest.fixture
def batch_of() -> Callable[..., PackedBatch]:
    return make_batch


@pytest.fixture
def architecture_of() -> Callable[..., Architecture]:
    return make_architecture


@pytest.fixture
def experts_of() -> Callable[..., MoaeArchitecture]:
    return make_experts
