"""The order of samples of a whole run as a pure function of the step.

Every source is an endless stream of views: epochs of the source, each a permutation (or weighted draws) of its samples,
each sample `views` times in a row. A step takes the next quota of each source; rank r at micro step a takes the
contiguous slice a * world_size + r of it. Nothing depends on how many ranks or micro steps there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s4d.config import Config
from s4d.data.batch import MODALITIES
from s4d.data.counter import generator
from s4d.data.sources import Source, load_sources
from s4d.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedView:
    """One view of the global order: `row` of source number `source`, at `position` of the source's own `epoch`.

    `view` counts on where weighted sampling draws a sample again within an epoch, so that no two are alike.
    """

    source: int
    row: int
    epoch: int
    position: int
    view: int


class SamplePlan:
    """Steps, quotas and order of a training run; checks the batch arithmetic on construction (UsageError)."""

    def __init__(self, config: Config, sources: Sequence[Source], *, world_size: int) -> None:
        self.config = config
        self.sources = tuple(sources)
        self.world_size = world_size
        self.accumulation = config.batch.accumulation
        self.alternate = config.batch.batching == "alternate"
        self.quotas = tuple(config.batch.per_step[source.config.name] for source in self.sources)
        self._check()
        self.modality_steps = {
            modality: max(self._epoch_steps(i) for i in self._of(modality))
            for modality in MODALITIES
            if self._of(modality)
        }
        steps = self.modality_steps.values()
        self.steps_per_epoch = sum(steps) if self.alternate else max(steps)
        epochs = config.engine.epochs
        self.total_steps = epochs * self.steps_per_epoch if epochs is not None else config.engine.steps or 0
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}
        self._schedules: dict[int, NDArray[np.int64]] = {}

    def order(self, source: int, epoch: int) -> NDArray[np.int64]:
        """Row numbers of one epoch of a source, in order."""
        if (source, epoch) not in self._orders:
            # A step touches two neighbouring epochs of a source at most; older ones go.
            self._orders = {key: rows for key, rows in self._orders.items() if key[0] != source or key[1] >= epoch - 1}
            self._orders[source, epoch] = self._draw_order(source, epoch)
        return self._orders[source, epoch]

    def epoch(self, step: int) -> int:
        """Epoch of the run that a step belongs to."""
        return step // self.steps_per_epoch

    def step_samples(self, step: int) -> dict[str, int]:
        """Views of each modality in the whole step; 0 for the one that an alternating step leaves out."""
        active = self._active(step)
        return {
            modality: sum(self.quotas[i] for i in self._of(modality)) if modality in active else 0
            for modality in self.modality_steps
        }

    def samples_per_step(self) -> dict[str, int]:
        """Views of each modality in a step that holds it."""
        return {modality: sum(self.quotas[i] for i in self._of(modality)) for modality in self.modality_steps}

    def micro_views(self, step: int, source: int, *, rank: int, micro: int) -> list[PlannedView]:
        """The views of one source that a rank trains on in one micro step; empty where the step leaves it out."""
        active = self._active(step)
        modality = self.sources[source].config.modality
        if modality not in active:
            return []
        count = self.quotas[source] // (self.world_size * self.accumulation)
        first = active[modality] * self.quotas[source] + (micro * self.world_size + rank) * count
        return [self._view(source, number) for number in range(first, first + count)]

    def loss_weights(self) -> dict[str, float]:
        """Weight of each modality's loss: as configured, else the released share of steps; 1 where steps alternate."""
        given = self.config.batch.loss_weights
        if given is not None:
            return {modality: given[modality] for modality in self.modality_steps if modality in given}
        if self.alternate:
            return dict.fromkeys(self.modality_steps, 1.0)
        shares = {
            modality: max(self._epoch_views(i) / self.quotas[i] for i in self._of(modality))
            for modality in self.modality_steps
        }
        return {modality: share / sum(shares.values()) for modality, share in shares.items()}

    def summary(self) -> list[str]:
        """The derived numbers, one line each, to be printed once."""
        lines = [
            f"{source.config.name}: {source.config.modality}, {len(source.rows)} samples, {quota} views a step = "
            f"{self.world_size} ranks x {self.accumulation} micro steps x "
            f"{quota // (self.world_size * self.accumulation)}, epoch of {self._epoch_views(i):g} views"
            for i, (source, quota) in enumerate(zip(self.sources, self.quotas, strict=True))
        ]
        weights = ", ".join(f"{name} {weight:.4g}" for name, weight in self.loss_weights().items())
        batching = self.config.batch.batching
        lines.append(f"{self.total_steps} steps of {batching} batches, {self.steps_per_epoch} an epoch")
        lines.append(f"loss weights: {weights}")
        return lines

    def _check(self) -> None:
        parts = self.world_size * self.accumulation
        mix = self.config.data.mix
        mixed = mix.mixup_alpha > 0 or mix.cutmix_alpha > 0
        for source, quota in zip(self.sources, self.quotas, strict=True):
            field = f"batch.per_step.{source.config.name}"
            if quota % parts:
                raise UsageError(
                    f"{field}: {quota} views a step do not divide into {self.world_size} ranks x "
                    f"{self.accumulation} micro steps"
                )
            if mixed and (quota // parts) % 2:
                raise UsageError(f"{field}: mixup and cutmix need pairs, got {quota // parts} for a rank's micro step")
            if mixed and source.config.views > 1:
                raise UsageError(f"data.sources ({source.config.name}): views must be 1 with mixup or cutmix")
            if source.config.sampling != "natural" and min(source.labels) < 0:
                raise UsageError(f"data.sources ({source.config.name}): sampling {source.config.sampling} needs labels")

    def _of(self, modality: str) -> list[int]:
        return [i for i, source in enumerate(self.sources) if source.config.modality == modality]

    def _epoch_views(self, source: int) -> float:
        settings = self.sources[source].config
        return settings.rate * len(self.sources[source].rows) * settings.views

    def _epoch_steps(self, source: int) -> int:
        return max(1, int(self._epoch_views(source) / self.quotas[source]))

    def _active(self, step: int) -> dict[str, int]:
        """Modalities of a step, each with the number of earlier steps that held it."""
        if not self.alternate:
            return dict.fromkeys(self.modality_steps, step)
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._schedules:
            self._schedules = {epoch: self._draw_schedule(epoch)}
        schedule = self._schedules[epoch]
        modality = tuple(self.modality_steps)[schedule[place]]
        earlier = int(np.count_nonzero(schedule[:place] == schedule[place]))
        return {modality: epoch * self.modality_steps[modality] + earlier}

    def _draw_schedule(self, epoch: int) -> NDArray[np.int64]:
        counts = list(self.modality_steps.values())
        return generator(self.config.seed, "schedule", epoch).permutation(np.repeat(np.arange(len(counts)), counts))

    def _draw_order(self, source: int, epoch: int) -> NDArray[np.int64]:
        settings, labels = self.sources[source].config, np.asarray(self.sources[source].labels)
        rng = generator(self.config.seed, "order", settings.name, epoch)
        if settings.sampling == "natural":
            return rng.permutation(len(labels))
        return rng.choice(len(labels), size=len(labels), p=draw_shares(labels, settings.sampling))

    def _view(self, source: int, number: int) -> PlannedView:
        sample, view = divmod(number, self.sources[source].config.views)
        epoch, position = divmod(sample, len(self.sources[source].rows))
        row = int(self.order(source, epoch)[position])
        repeat = self._repeats(source, epoch, position)
        view += repeat * self.sources[source].config.views
        return PlannedView(source=source, row=row, epoch=epoch, position=position, view=view)

    def _repeats(self, source: int, epoch: int, position: int) -> int:
        """How often weighted sampling has drawn the sample at `position` before in this epoch."""
        if self.sources[source].config.sampling == "natural":
            return 0
        order = self.order(source, epoch)
        return int(np.count_nonzero(order[:position] == order[position]))


def draw_shares(labels: NDArray[np.int64], sampling: str) -> NDArray[np.float64]:
    """Probability that a draw is this sample, given class numbers (n,): alike, or evening out the classes."""
    if sampling == "natural":
        return np.full(len(labels), 1 / len(labels))
    counts = np.bincount(labels)[labels].astype(np.float64)
    weights: NDArray[np.float64] = 1.0 / (counts if sampling == "balanced" else np.sqrt(counts))
    return weights / weights.sum()


def build_plan(config: Config, *, world_size: int) -> SamplePlan:
    """The plan of a training run, from its manifests."""
    return SamplePlan(config, load_sources(config, "train"), world_size=world_size)
