"""Micro batches of one rank as a pure function of their number, decoded on the CPU frame by frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.data.buffers import pixel_buffer
from s4d.data.decode_torchcodec import read_views as read_by_torchcodec
from s4d.data.packing import Packer, StepInfo, View
from s4d.data.plan import PlannedView, SamplePlan
from s4d.data.reading import ReadSample, Skipped, TrainReader, read_views
from s4d.data.sources import head_classes

# The backends of `data.backend` that decode frame by frame where they are asked to, and how.
READERS: dict[str, ReadSample] = {"pyav": read_views, "torchcodec": read_by_torchcodec}

Built = tuple[PackedBatch, tuple[Skipped, ...]]
Planned = list[list[PlannedView]]
Read = tuple[list[list[View]], tuple[Skipped, ...]]


class BatchLayout:
    """Which views a micro batch holds, the shapes of their pixels, and how they are packed; shared by every backend.

    Micro batch number `index` is micro step index % accumulation of step index // accumulation.
    """

    def __init__(self, config: Config, plan: SamplePlan, rank: int) -> None:
        self.plan = plan
        self.rank = rank
        self.packer = Packer(config, plan.sources, head_classes(config))

    def planned(self, index: int) -> Planned:
        """The views of each source, in the order of the plan's sources."""
        step, micro = divmod(index, self.plan.accumulation)
        return [
            self.plan.micro_views(step, source, rank=self.rank, micro=micro) for source in range(len(self.plan.sources))
        ]

    def shapes(self, planned: Planned, reader: TrainReader) -> dict[str, tuple[int, ...]]:
        """Shape (views, F, S, S, 3) of the pixels of each modality present."""
        shapes: dict[str, tuple[int, ...]] = {}
        for source, spec, wanted in zip(self.plan.sources, reader.specs, planned, strict=True):
            if wanted:
                modality = source.config.modality
                shapes[modality] = (shapes.get(modality, (0,))[0] + len(wanted), *spec.shape)
        return shapes

    def read(self, planned: Planned, room: Mapping[str, Any], reader: TrainReader) -> Read:
        """Read every planned view; `room` has a place for each view of a modality, whatever the reader writes to."""
        views: list[list[View]] = []
        skipped: list[Skipped] = []
        used = dict.fromkeys(room, 0)
        for source, wanted in zip(self.plan.sources, planned, strict=True):
            modality = source.config.modality
            read: list[View] = []
            if wanted:
                first = used[modality]
                used[modality] += len(wanted)
                read, bad = reader.read(wanted, room[modality][first : used[modality]])
                skipped.extend(bad)
            views.append(read)
        return views, tuple(skipped)

    def pack(self, index: int, views: list[list[View]], pixels: dict[str, Tensor]) -> PackedBatch:
        """The batch of these views and pixels."""
        step = index // self.plan.accumulation
        info = StepInfo(
            step=step, epoch=self.plan.epoch(step), step_samples=self.plan.step_samples(step), training=True
        )
        return self.packer.pack(views, pixels, info)


class MicroBatches:
    """Micro batches decoded by one of `READERS`; holds no state, so any process can build any one."""

    def __init__(self, config: Config, plan: SamplePlan, rank: int, backend: str = "pyav") -> None:
        self.layout = BatchLayout(config, plan, rank)
        self.reader = TrainReader(config, plan, READERS[backend])

    def __getitem__(self, index: int) -> Built:
        """The packed batch, and the files that could not be read for it."""
        planned = self.layout.planned(index)
        pixels = {name: pixel_buffer(shape) for name, shape in self.layout.shapes(planned, self.reader).items()}
        room = {modality: tensor.numpy() for modality, tensor in pixels.items()}
        views, skipped = self.layout.read(planned, room, self.reader)
        return self.layout.pack(index, views, pixels), skipped
