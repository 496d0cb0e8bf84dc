"""Views of one micro batch to one PackedBatch: pixel groups, token table, targets and what is drawn for the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.patch import Erase, Mix
from kernels.philox import layer_key
from s4d.config import Config
from s4d.config_section import Modality
from s4d.data.batch import MODALITIES, HeadTargets, PackedBatch, PixelGroup
from s4d.data.counter import generator
from s4d.data.draws import SampleDraw
from s4d.data.masking import split_tokens
from s4d.data.mixing import MixDraw, draw_mix, mix_targets, smooth, soft_targets
from s4d.data.sources import Source
from s4d.models.sizes import architecture


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What is known of one view besides its pixels: its label, what was drawn for it, its source's epoch and view."""

    sample_id: str
    label: int
    draw: SampleDraw
    epoch: int
    view: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInfo:
    """The optimizer step a micro batch belongs to; mixing, smoothing and drop path are off outside training."""

    step: int
    epoch: int
    step_samples: dict[str, int]
    training: bool


class Packer:
    """Packs the views of one micro batch; `sources` come images first and give heads in configuration order."""

    def __init__(self, config: Config, sources: Sequence[Source], heads: dict[str, tuple[str, ...]]) -> None:
        self.config = config
        self.sources = tuple(sources)
        self.heads = heads
        self.head_modality = {source.name: source.modality for source in config.data.sources}
        self.model = architecture(config.model, experts=False)
        self.shares = {
            source.config.name: {row.sample_id: shares for row, shares in zip(source.rows, source.shares, strict=True)}
            for source in self.sources
            if source.shares is not None
        }

    def pack(self, views: Sequence[Sequence[View]], pixels: dict[str, Tensor], step: StepInfo) -> PackedBatch:
        """One batch of the views of each source, in the order of `sources`; `pixels` are those of each modality."""
        mixes = [self._mix(i, source_views, step) for i, source_views in enumerate(views)]
        groups, layout = [], []
        for modality in MODALITIES:
            chosen = [i for i, source in enumerate(self.sources) if source.config.modality == modality and views[i]]
            if chosen:
                flat = [view for i in chosen for view in views[i]]
                group = self._group(modality, flat, pixels[modality], [mixes[i] for i in chosen])
                groups.append(group)
                layout.append((group.pixels.shape[0], self.model.tokens(modality)))
        flat = [view for source_views in views for view in source_views]
        shares = self.config.data.decode_ratio if step.training and self.config.task == "pretrain" else {}
        visible, masked, layout_visible, layout_masked = self._tokens(flat, groups, layout, shares)
        modality_ids = [MODALITIES.index(group.modality) for group in groups for _ in group.sample_ids]
        positions = [np.tile(np.arange(length), count) for count, length in layout]
        return PackedBatch(
            groups=tuple(groups),
            cu_seqlens=_borders(layout),
            max_seqlen=max(length for _, length in layout),
            layout=tuple(layout),
            visible_indices=torch.from_numpy(visible),
            masked_indices=torch.from_numpy(masked),
            cu_seqlens_visible=_borders(layout_visible),
            max_seqlen_visible=max(length for _, length in layout_visible),
            layout_visible=tuple(layout_visible),
            positions=torch.from_numpy(np.concatenate(positions)),
            modality=torch.tensor(modality_ids, dtype=torch.int64),
            heads=self._targets(views, mixes, step.training),
            step_samples=step.step_samples,
            noise_keys=torch.tensor([view.draw.noise_key for view in flat], dtype=torch.int64),
            layer_keys=torch.tensor(
                [layer_key(self.config.seed, step.epoch, layer) for layer in range(self.model.depth)]
            ),
            drop_path_keep=self._drop_path(flat) if step.training and self.config.model.drop_path > 0 else None,
            layout_masked=tuple(layout_masked) if any(share < 1 for share in shares.values()) else None,
        )

    def _group(
        self, modality: str, views: Sequence[View], pixels: Tensor, mixes: Sequence[list[MixDraw] | None]
    ) -> PixelGroup:
        settings = self.config.data.image if modality == "image" else self.config.data.video
        erase = None
        if any(view.draw.erase_box is not None for view in views):
            erase = Erase(
                box=torch.tensor([view.draw.erase_box or (0, 0, 0, 0) for view in views], dtype=torch.int32),
                seed=torch.tensor([view.draw.noise_key for view in views], dtype=torch.int64),
                noise=settings.erase_fill == "noise",
            )
        return PixelGroup(
            pixels=pixels,
            modality=modality,
            sample_ids=tuple(view.sample_id for view in views),
            mix=_mix_record([draw for draws in mixes if draws is not None for draw in draws]),
            erase=erase,
        )

    def _tokens(
        self,
        views: Sequence[View],
        groups: Sequence[PixelGroup],
        layout: Sequence[tuple[int, int]],
        shares: Mapping[Modality, float],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], list[tuple[int, int]], list[tuple[int, int]]]:
        """Indices into the packed tokens of the visible ones and of those to predict, and the layouts of both.

        `shares` are those of the masked tokens that are predicted, by modality; all where it has none.
        """
        total = sum(count * length for count, length in layout)
        if self.config.task == "finetune":
            return np.arange(total), np.empty(0, dtype=np.int64), list(layout), []
        visible, masked, layout_visible, layout_masked = [], [], [], []
        start, remaining = 0, iter(views)
        for group, (count, length) in zip(groups, layout, strict=True):
            modality: Modality = group.modality  # type: ignore[assignment]
            ratio, share = self.config.data.mask_ratio[modality], shares.get(modality, 1.0)
            for view in (next(remaining) for _ in range(count)):
                shown, hidden = split_tokens(view.draw.mask_seed, length, ratio, share)
                visible.append(shown + start)
                masked.append(hidden + start)
                start += length
            layout_visible.append((count, len(shown)))
            layout_masked.append((count, len(hidden)))
        return np.concatenate(visible), np.concatenate(masked), layout_visible, layout_masked

    def _mix(self, source: int, views: Sequence[View], step: StepInfo) -> list[MixDraw] | None:
        """One draw per view, shared by each pair (i, i ^ 1) or by all views of the source in the step."""
        mix, seed = self.config.data.mix, self.config.seed
        if not step.training or not views or (mix.mixup_alpha == 0 and mix.cutmix_alpha == 0):
            return None
        size = self.config.model.image_size
        if mix.scope == "batch":
            rng = generator(seed, "mix", step.step, self.sources[source].config.name)
            return [draw_mix(rng, mix, size)] * len(views)
        draws = []
        for first in views[::2]:
            rng = generator(seed, first.epoch, first.sample_id, first.view, "mix")
            draws.extend([draw_mix(rng, mix, size)] * 2)
        return draws

    def _targets(
        self, views: Sequence[Sequence[View]], mixes: Sequence[list[MixDraw] | None], training: bool
    ) -> tuple[HeadTargets, ...]:
        rows: dict[str, tuple[int, NDArray[np.float32]]] = {}
        first = 0
        for source, source_views, draws in zip(self.sources, views, mixes, strict=True):
            name = source.config.name
            if name in self.heads and source_views:
                targets = self._unmixed(name, source_views, training)
                if draws is not None:
                    targets = mix_targets(targets, np.array([draw.lam for draw in draws], dtype=np.float32))
                rows[name] = (first, targets)
            first += len(source_views)
        heads = []
        for name, classes in self.heads.items():
            start, targets = rows.get(name, (0, np.empty((0, len(classes)), dtype=np.float32)))
            heads.append(
                HeadTargets(
                    head=name,
                    modality=self.head_modality[name],
                    sequences=torch.arange(start, start + len(targets)),
                    targets=torch.from_numpy(targets),
                )
            )
        return tuple(heads)

    def _unmixed(self, name: str, views: Sequence[View], training: bool) -> NDArray[np.float32]:
        """Targets (m, classes) of the views of one source: labels or shares of votes, smoothed; labels in evaluation.

        A substitute for an unreadable sample has its own id, so the shares are its own too.
        """
        smoothing = self.config.data.mix.label_smoothing
        if training and name in self.shares:
            return smooth(np.array([self.shares[name][view.sample_id] for view in views]), smoothing)
        labels = np.array([view.label for view in views], dtype=np.int64)
        return soft_targets(labels, len(self.heads[name]), smoothing if training else 0.0)

    def _drop_path(self, views: Sequence[View]) -> Tensor:
        """Keep factors (depth, B): 0 where a block is skipped, else 1 / keep probability, which falls with depth."""
        depth = self.model.depth
        keep = 1 - np.linspace(0, self.config.model.drop_path, depth)
        draws = np.stack([generator(view.draw.noise_key, "drop path").random(depth) for view in views], axis=1)
        factors = np.where(draws < keep[:, None], 1 / keep[:, None], 0.0)
        return torch.from_numpy(factors.astype(np.float32))


def _borders(layout: Sequence[tuple[int, int]]) -> Tensor:
    lengths = np.concatenate([np.full(count, length) for count, length in layout])
    return torch.from_numpy(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32))


def _mix_record(draws: list[MixDraw]) -> Mix | None:
    if not draws:
        return None
    boxes = [draw.box or (0, 0, 0, 0) for draw in draws]
    cut = any(draw.box is not None for draw in draws)
    return Mix(
        partner=torch.arange(len(draws)) ^ 1,
        lam=torch.tensor([draw.lam for draw in draws], dtype=torch.float32),
        box=torch.tensor(boxes, dtype=torch.int32) if cut else None,
    )
