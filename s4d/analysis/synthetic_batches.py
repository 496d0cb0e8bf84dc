"""Steps of random pixels in the shapes of a configuration, packed, masked, mixed and erased as its own batches are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from s4d.config import Config
from s4d.config_data import SourceConfig
from s4d.data.batch import MODALITIES, PackedBatch
from s4d.data.draw_sample import DrawKey, train_draw
from s4d.data.packing import Packer, StepInfo, View
from s4d.data.reading import view_spec
from s4d.data.sources import Source
from s4d.errors import UsageError

# Of a head whose classes only a manifest knows.
CLASSES = 7
# Size of the frames that crops are drawn from.
DECODED, FRAMES = (224, 224), 250


def description(config: Config) -> dict[str, Any]:
    """What `s4d.tasks.restore_task` needs to build the task without its data: equal weights, heads, even priors."""
    present = [name for name in MODALITIES if any(source.modality == name for source in config.data.sources)]
    classes = {}
    if config.task == "finetune":
        classes = {source.name: _classes(source) for source in config.data.sources}
    return {
        "loss_weights": {name: 1 / len(present) for name in present},
        "classes": classes,
        "class_priors": {head: [1 / len(names)] * len(names) for head, names in classes.items()},
    }


def _classes(source: SourceConfig) -> tuple[str, ...]:
    if isinstance(source.classes, list):
        return tuple(source.classes)
    return tuple(f"class {number}" for number in range(CLASSES))


def check_quotas(config: Config, world_size: int) -> None:
    """UsageError where the views of a step do not divide over the ranks, as the plan of a real run says it."""
    parts, mix = world_size * config.batch.accumulation, config.data.mix
    mixed = mix.mixup_alpha > 0 or mix.cutmix_alpha > 0
    for name, quota in config.batch.per_step.items():
        if quota % (2 * parts if mixed else parts):
            raise UsageError(
                f"batch.per_step.{name}: {quota} views a step do not divide into {world_size} ranks x "
                f"{config.batch.accumulation} micro steps{' in pairs' if mixed else ''}"
            )


class SyntheticBatches:
    """The same random step of one rank over and over; see `engine.protocols.Batches`."""

    def __init__(self, config: Config, total_steps: int, *, rank: int = 0, world_size: int = 1) -> None:
        check_quotas(config, world_size)
        self.config = config
        self.total_steps = total_steps
        self._rank = rank
        self._parts = world_size * config.batch.accumulation
        ordered = sorted(config.data.sources, key=lambda source: source.modality != "image")
        self._sources = [_source(config, source) for source in ordered]
        heads = description(config)["classes"]
        self._packer = Packer(config, self._sources, heads)
        # Where steps alternate, how often each modality has its turn is known from manifests alone: here one by one.
        present = [[name] for name in self.samples_per_step]
        kinds = present if config.batch.batching == "alternate" else [list(self.samples_per_step)]
        self._steps = [[self._micro_batch(i, kind) for i in range(config.batch.accumulation)] for kind in kinds]

    @property
    def samples_per_step(self) -> dict[str, int]:
        """Views of each modality in a step, over all ranks."""
        found: dict[str, int] = {}
        for source in self._sources:
            found[source.config.modality] = found.get(source.config.modality, 0) + self._quota(source)
        return found

    def steps(self, start: int) -> Iterator[list[PackedBatch]]:
        """Micro batches of the steps from `start` on."""
        for step in range(start, self.total_steps):
            yield self._steps[step % len(self._steps)]

    def counters(self) -> dict[str, int]:
        """Nothing was skipped."""
        return {}

    def fingerprints(self) -> dict[str, str | None]:
        """Nothing is read."""
        return {}

    def close(self) -> None:
        """Nothing to end."""

    def _quota(self, source: Source) -> int:
        return self.config.batch.per_step[source.config.name]

    def _micro_batch(self, number: int, modalities: list[str]) -> PackedBatch:
        counts = [self._quota(s) // self._parts * (s.config.modality in modalities) for s in self._sources]
        views = [self._views(source, count, number) for source, count in zip(self._sources, counts, strict=True)]
        generator = torch.Generator().manual_seed(number + self._rank * self.config.batch.accumulation)
        pixels = {}
        for modality in modalities:
            chosen = [i for i, source in enumerate(self._sources) if source.config.modality == modality]
            shape = (sum(counts[i] for i in chosen), *view_spec(self.config, self._sources[chosen[0]]).shape)
            pixels[modality] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        samples = {name: count * (name in modalities) for name, count in self.samples_per_step.items()}
        return self._packer.pack(views, pixels, StepInfo(step=0, epoch=0, step_samples=samples, training=True))

    def _views(self, source: Source, count: int, micro: int) -> list[View]:
        image = source.config.modality == "image"
        augment = self.config.data.image if image else self.config.data.video
        views = []
        for number in range(count):
            sample = f"{source.config.name}/{self._rank}/{micro}/{number}"
            draw = train_draw(
                DrawKey(seed=self.config.seed, epoch=0, sample_id=sample, view=0),
                view_spec(self.config, source),
                augment,
                frame_count=1 if image else FRAMES,
                size=DECODED,
            )
            label = number % max(1, len(source.classes))
            views.append(View(sample_id=sample, label=label, draw=draw, epoch=0, view=0))
        return views


def _source(config: Config, source: SourceConfig) -> Source:
    classes = _classes(source) if config.task == "finetune" else ()
    return Source(config=source, rows=(), labels=(), classes=classes, root=Path(), fingerprint="")
