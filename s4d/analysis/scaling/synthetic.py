"""Batches of a configuration without its files: random pixels in the run's shapes, packed as training packs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from s4d.config import Config
from s4d.config_data import SourceConfig
from s4d.data.batch import PackedBatch
from s4d.data.draw_sample import DrawKey, train_draw
from s4d.data.manifest import ManifestRow
from s4d.data.packing import Packer, StepInfo, View
from s4d.data.plan import PlannedView, SamplePlan
from s4d.data.reading import view_spec
from s4d.data.sources import Source

# Of a source whose configuration does not list its classes: the seven basic expressions.
CLASSES = tuple(f"class {number}" for number in range(7))


def synthetic_plan(config: Config, *, world_size: int) -> SamplePlan:
    """The plan of a run over made-up samples, as many of each source as a step takes; UsageError as a real one."""
    ordered = sorted(config.data.sources, key=lambda source: source.modality != "image")
    sources = [_source(source, config.batch.per_step[source.name]) for source in ordered]
    return SamplePlan(config, sources, world_size=world_size)


def synthetic_heads(config: Config) -> dict[str, tuple[str, ...]]:
    """Class names of each head; none for pre-training."""
    if config.task != "finetune":
        return {}
    return {source.name: _classes(source) for source in config.data.sources}


def _classes(source: SourceConfig) -> tuple[str, ...]:
    return tuple(source.classes) if isinstance(source.classes, list) else CLASSES


def _source(settings: SourceConfig, samples: int) -> Source:
    classes = _classes(settings)
    rows = tuple(
        ManifestRow(
            sample_id=f"{settings.name}{number}",
            path="nowhere",
            kind="image" if settings.modality == "image" else "video",
            dataset=settings.name,
            split="train",
        )
        for number in range(samples)
    )
    labels = tuple(number % len(classes) for number in range(samples))
    return Source(config=settings, rows=rows, labels=labels, classes=classes, root=Path("nowhere"), fingerprint="")


class SyntheticBatches:
    """The steps of one rank as `s4d.data.loader.TrainBatches` hands them out, all made beforehand.

    All batches of a shape share their pixels, which do not change how long a step takes.
    """

    def __init__(self, config: Config, plan: SamplePlan, rank: int) -> None:
        self._config = config
        self._plan = plan
        self._rank = rank
        self._packer = Packer(config, plan.sources, synthetic_heads(config))
        self._specs = [view_spec(config, source) for source in plan.sources]
        self._pixels: dict[tuple[int, ...], torch.Tensor] = {}
        self._steps = [
            [self._batch(step, micro) for micro in range(plan.accumulation)] for step in range(plan.total_steps)
        ]

    @property
    def total_steps(self) -> int:
        """Optimizer steps."""
        return self._plan.total_steps

    @property
    def samples_per_step(self) -> dict[str, int]:
        """Views of each modality in a step, over all ranks and accumulation."""
        return self._plan.samples_per_step()

    def steps(self, start: int) -> Iterator[list[PackedBatch]]:
        """Micro batches of step `start` and on."""
        return iter(self._steps[start:])

    def fingerprints(self) -> dict[str, str | None]:
        """Nothing is read."""
        return {}

    def counters(self) -> dict[str, int]:
        """Nothing is skipped."""
        return {}

    def close(self) -> None:
        """No process to end."""

    def _batch(self, step: int, micro: int) -> PackedBatch:
        sources = range(len(self._plan.sources))
        planned = [self._plan.micro_views(step, source, rank=self._rank, micro=micro) for source in sources]
        views = [[self._view(view) for view in wanted] for wanted in planned]
        counts: dict[str, tuple[int, ...]] = {}
        for source, spec, wanted in zip(self._plan.sources, self._specs, planned, strict=True):
            if wanted:
                modality = source.config.modality
                counts[modality] = (counts.get(modality, (0,))[0] + len(wanted), *spec.shape)
        pixels = {modality: self._random(shape) for modality, shape in counts.items()}
        info = StepInfo(
            step=step, epoch=self._plan.epoch(step), step_samples=self._plan.step_samples(step), training=True
        )
        return self._packer.pack(views, pixels, info)

    def _view(self, planned: PlannedView) -> View:
        source, spec = self._plan.sources[planned.source], self._specs[planned.source]
        augment = self._config.data.image if source.config.modality == "image" else self._config.data.video
        name = source.rows[planned.row].sample_id
        key = DrawKey(seed=self._config.seed, epoch=planned.epoch, sample_id=name, view=planned.view)
        frames = spec.num_frames * spec.stride
        draw = train_draw(key, spec, augment, frame_count=frames, size=(spec.size, spec.size))
        label = source.labels[planned.row]
        return View(sample_id=name, label=label, draw=draw, epoch=planned.epoch, view=planned.view)

    def _random(self, shape: tuple[int, ...]) -> torch.Tensor:
        if shape not in self._pixels:
            generator = torch.Generator().manual_seed(len(self._pixels))
            self._pixels[shape] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return self._pixels[shape]
