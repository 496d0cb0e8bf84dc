"""Training batches of one rank as a pure function of the step number, decoded ahead in worker processes."""

from __future__ import annotations

import gc
import logging
from collections.abc import Generator, Iterator, Sequence

import numpy as np
from torch import Tensor

from s4d.config import Config
from s4d.data.batch import MODALITIES, PackedBatch
from s4d.data.buffers import pixel_buffer
from s4d.data.packing import Packer, StepInfo, View
from s4d.data.plan import PlannedView, SamplePlan, build_plan
from s4d.data.reading import Skipped, TrainReader
from s4d.data.sources import head_classes
from s4d.data.workers import in_order

logger = logging.getLogger(__name__)

Built = tuple[PackedBatch, tuple[Skipped, ...]]


class MicroBatches:
    """Micro batch number step * accumulation + micro of one rank; holds no state, so any process can build any one."""

    def __init__(self, config: Config, plan: SamplePlan, rank: int) -> None:
        self.plan = plan
        self.rank = rank
        self.reader = TrainReader(config, plan)
        self.packer = Packer(config, plan.sources, head_classes(config))

    def __getitem__(self, index: int) -> Built:
        """The packed batch, and the files that could not be read for it."""
        step, micro = divmod(index, self.plan.accumulation)
        planned = [
            self.plan.micro_views(step, source, rank=self.rank, micro=micro) for source in range(len(self.plan.sources))
        ]
        pixels = self._buffers(planned)
        room = {modality: tensor.numpy() for modality, tensor in pixels.items()}
        views, skipped = [], []
        for source, wanted in zip(self.plan.sources, planned, strict=True):
            read: list[View] = []
            if wanted:
                modality = source.config.modality
                out, room[modality] = np.split(room[modality], [len(wanted)])
                read, bad = self.reader.read(wanted, out)
                skipped.extend(bad)
            views.append(read)
        info = StepInfo(
            step=step, epoch=self.plan.epoch(step), step_samples=self.plan.step_samples(step), training=True
        )
        return self.packer.pack(views, pixels, info), tuple(skipped)

    def _buffers(self, planned: Sequence[Sequence[PlannedView]]) -> dict[str, Tensor]:
        """Room for the pixels of each modality in the micro batch."""
        counts: dict[str, int] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for source, spec, wanted in zip(self.plan.sources, self.reader.specs, planned, strict=True):
            if wanted:
                counts[source.config.modality] = counts.get(source.config.modality, 0) + len(wanted)
                shapes[source.config.modality] = spec.shape
        return {modality: pixel_buffer((count, *shapes[modality])) for modality, count in counts.items()}


class TrainBatches:
    """The step sequence of one rank; see `engine.protocols.Batches`."""

    def __init__(self, config: Config, plan: SamplePlan, rank: int) -> None:
        self.plan = plan
        self._micro_batches = MicroBatches(config, plan, rank)
        self._workers = config.data.workers
        self._stream: Generator[list[PackedBatch], None, None] | None = None
        self._skipped = {f"data/skipped/{modality}": 0 for modality in MODALITIES if modality in plan.modality_steps}
        self._modality = {source.name: source.modality for source in config.data.sources}
        self._named: set[str] = set()

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.plan.total_steps

    @property
    def samples_per_step(self) -> dict[str, int]:
        """Views of each modality in a step, over all ranks and accumulation."""
        return self.plan.samples_per_step()

    def steps(self, start: int) -> Iterator[list[PackedBatch]]:
        """Micro batches of step `start`, `start + 1`, ... up to `total_steps`; ends an earlier iteration."""
        self.close()
        self._stream = self._steps(start)
        return self._stream

    def counters(self) -> dict[str, int]:
        """Unreadable samples met so far in the steps handed out, by modality."""
        return dict(self._skipped)

    def close(self) -> None:
        """End the worker processes."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            # The loader's queues refer to one another, and their semaphores stay until they are gone.
            gc.collect()

    def _steps(self, start: int) -> Generator[list[PackedBatch], None, None]:
        accumulation = self.plan.accumulation
        indices = range(start * accumulation, self.total_steps * accumulation)
        stream = in_order(self._micro_batches, indices, self._workers)
        for _ in range(start, self.total_steps):
            batches = []
            for _ in range(accumulation):
                batch, skipped = next(stream)
                self._note(skipped)
                batches.append(batch)
            yield batches

    def _note(self, skipped: tuple[Skipped, ...]) -> None:
        for item in skipped:
            self._skipped[f"data/skipped/{self._modality[item.source]}"] += 1
            if item.problem not in self._named:
                self._named.add(item.problem)
                logger.warning("%s (source %s): replaced by the next readable sample", item.problem, item.source)


def build_batches(config: Config, rank: int, world_size: int) -> TrainBatches:
    """Training batches of one rank; UsageError for a configuration, DataError for manifests that do not fit."""
    return TrainBatches(config, build_plan(config, world_size=world_size), rank)
