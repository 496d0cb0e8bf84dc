"""Evaluation batches: every sample of a split once, its views in one forward, equally many forwards on each rank."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s4d.config import Config
from s4d.config_section import Modality
from s4d.data.batch import PackedBatch
from s4d.data.buffers import pixel_buffer
from s4d.data.draw_sample import DrawKey, EvalView, eval_draw
from s4d.data.draws import SampleDraw
from s4d.data.input_recipe import input_recipe
from s4d.data.media import Media
from s4d.data.packing import Packer, StepInfo, View
from s4d.data.reading import Skipped, read_views
from s4d.data.sources import Source, head_classes, load_source
from s4d.data.workers import in_order
from s4d.errors import DataError

logger = logging.getLogger(__name__)

IMAGES_PER_CLIP = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalBatch:
    """One forward: row i of `batch` is view `views[i]` of sample number `samples[i]` of the split.

    `labels` (n,) int64 are class numbers (-1: none); `weights` (n,) float32 is 0 where a row is black padding (to keep
    ranks in step, or for an unreadable file) and must not count.
    """

    batch: PackedBatch
    sample_ids: tuple[str, ...]
    samples: Tensor
    views: Tensor
    labels: Tensor
    weights: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalPlan:
    """Which samples a rank takes in each forward; -1 is padding."""

    samples: int
    rank: int
    world_size: int
    per_forward: int

    @property
    def forwards(self) -> int:
        """Forwards of every rank."""
        return -(-self.samples // (self.world_size * self.per_forward))

    @property
    def rows(self) -> int:
        """Samples in each forward: as few as `forwards` allow, so that little is padded."""
        return -(-self.samples // (self.world_size * self.forwards))

    def forward(self, number: int) -> list[int]:
        """Sample numbers of one forward of this rank."""
        first = (number * self.world_size + self.rank) * self.rows
        return [sample if sample < self.samples else -1 for sample in range(first, first + self.rows)]


def eval_views(config: Config, source: Source, repeated_frames: int = 0, frame_order: str = "kept") -> list[EvalView]:
    """The views of every sample: windows x crops of a clip, one of an image, or frames spread over a clip, each alone.

    Such a frame is held for a whole clip; where the source is shown as images it is an image. `frame_order` is that of
    the frames in each window, see `s4d.data.sampling.FRAME_ORDERS`.
    """
    if repeated_frames:
        return [EvalView(temporal=(i, repeated_frames), repeated=True) for i in range(repeated_frames)]
    return [replace(view, frame_order=frame_order) for view in input_recipe(config, source.config).views]


class _Forwards:
    """Forward number n of one rank, computable in any process."""

    def __init__(self, config: Config, source: Source, views: list[EvalView], plan: EvalPlan) -> None:
        self.config = config
        self.source = source
        self.views = views
        self.plan = plan
        self.recipe = input_recipe(config, source.config)
        self.spec = self.recipe.spec
        self.packer = Packer(config, (source,), head_classes(config))

    def __getitem__(self, number: int) -> tuple[EvalBatch, tuple[Skipped, ...]]:
        rows: list[View] = []
        weights: list[float] = []
        skipped: list[Skipped] = []
        samples = self.plan.forward(number)
        pixels = pixel_buffer((len(samples) * len(self.views), *self.spec.shape))
        for sample, out in zip(samples, pixels.numpy().reshape(-1, len(self.views), *self.spec.shape), strict=True):
            try:
                rows.extend(self._padding(out) if sample < 0 else self._read(sample, out))
                weights.extend([float(sample >= 0)] * len(self.views))
            except DataError as error:
                skipped.append(Skipped(source=self.source.config.name, problem=str(error)))
                rows.extend(self._padding(out))
                weights.extend([0.0] * len(self.views))
        modality = self.source.config.modality
        info = StepInfo(step=number, epoch=0, step_samples={modality: len(rows)}, training=False)
        labels = [self.source.labels[sample] if sample >= 0 else -1 for sample in samples for _ in self.views]
        batch = EvalBatch(
            batch=self.packer.pack([rows], {modality: pixels}, info),
            sample_ids=tuple(row.sample_id for row in rows),
            samples=torch.tensor([sample for sample in samples for _ in self.views]),
            views=torch.arange(len(self.views)).repeat(len(samples)),
            labels=torch.tensor(labels),
            weights=torch.tensor(weights),
        )
        return batch, tuple(skipped)

    def _read(self, sample: int, out: NDArray[np.uint8]) -> list[View]:
        source = self.source
        sample_id = source.rows[sample].sample_id

        def draw(media: Media) -> list[SampleDraw]:
            return self.recipe.draws(sample_id, self.views, frame_count=media.frame_count, size=media.size)

        draws = read_views(source, sample, self.config.data.order, out, draw=draw)
        label = max(0, source.labels[sample])
        return [
            View(sample_id=sample_id, label=label, draw=drawn, epoch=0, view=number)
            for number, drawn in enumerate(draws)
        ]

    def _padding(self, out: NDArray[np.uint8]) -> list[View]:
        """Black rows of weight 0."""
        out[:] = 0
        size = self.spec.size
        key = DrawKey(seed=self.config.seed, epoch=0, sample_id="", view=0)
        draw = eval_draw(key, self.spec, EvalView(), resize="square", frame_count=1, size=(size, size))
        return [View(sample_id="", label=0, draw=draw, epoch=0, view=number) for number in range(len(self.views))]


class EvalBatches:
    """Evaluation batches of one rank; iterate as often as wanted.

    With `data.on_error: error` the line of the first unreadable sample is left in `refused` instead of being raised,
    since the other ranks count on this one's forwards; the caller refuses the result on all ranks together.
    """

    def __init__(
        self,
        config: Config,
        source: Source,
        rank: int,
        world_size: int,
        *,
        repeated_frames: int = 0,
        frame_order: str = "kept",
    ) -> None:
        self.source = source
        self.views = eval_views(config, source, repeated_frames, frame_order)
        rows = config.evaluation.batch_size * (IMAGES_PER_CLIP if source.config.modality == "image" else 1)
        self.plan = EvalPlan(
            samples=len(source.rows), rank=rank, world_size=world_size, per_forward=max(1, rows // len(self.views))
        )
        self.skipped = 0
        self.refused: str | None = None
        self._on_error = config.data.on_error
        self._forwards = _Forwards(config, source, self.views, self.plan)
        self._workers = config.data.workers

    def __len__(self) -> int:
        """Forwards, equal on all ranks."""
        return self.plan.forwards

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in head order."""
        return self.source.classes

    def __iter__(self) -> Iterator[EvalBatch]:
        self.skipped, self.refused = 0, None
        for batch, skipped in in_order(self._forwards, range(len(self)), self._workers):
            for item in skipped:
                self.skipped += 1
                if self._on_error == "error":
                    self.refused = self.refused or item.problem
                    continue
                logger.warning("%s (source %s): left out of the evaluation", item.problem, item.source)
            yield batch


def build_evaluation(
    config: Config,
    split: str,
    source: str,
    rank: int,
    world_size: int,
    *,
    repeated_frames: int = 0,
    shown_as: Modality | None = None,
    frame_order: str = "kept",
) -> EvalBatches:
    """Evaluation batches of one source at a split (train, val, test); `repeated_frames` asks for single-frame views.

    `shown_as` shows the source in the other modality, which takes single-frame views: each of that many frames of a
    clip as an image (of the images' resize rule), or an image held for the length of a clip (one frame). `frame_order`
    shows the frames of a clip's windows in another order, a name in `s4d.data.sampling.FRAME_ORDERS`.
    """
    loaded = load_source(config, source, split)
    if shown_as is not None and shown_as != loaded.config.modality:
        if repeated_frames < 1:
            raise ValueError(f"repeated_frames: a source shown as {shown_as} needs at least 1, got {repeated_frames}")
        loaded = replace(loaded, config=loaded.config.model_copy(update={"modality": shown_as}))
    return EvalBatches(config, loaded, rank, world_size, repeated_frames=repeated_frames, frame_order=frame_order)
