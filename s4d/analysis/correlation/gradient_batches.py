"""Fixed training batches of one modality each, no sample in two of them, for every model the same.

Batches are augmented, mixed and noised as the run's own were; order and draws follow the seed of the study.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from s4d.config import Config
from s4d.data.batch import MODALITIES, PackedBatch
from s4d.data.buffers import pixel_buffer
from s4d.data.micro_batches import READERS, BatchLayout, Built
from s4d.data.packing import StepInfo
from s4d.data.plan import PlannedView, build_plan
from s4d.data.reading import TrainReader
from s4d.data.workers import in_order
from s4d.errors import DataError

logger = logging.getLogger(__name__)

# Of each pair: two batches of images, then two of clips.
PLACES = tuple((modality, half) for modality in MODALITIES for half in range(2))
EPOCH = 0
# Rather fewer batches than batches of fewer samples.
SMALL = 4


class PairedBatches:
    """At most `pairs` times four batches: two of images, two of clips; fewer where they would be very small.

    Item number `index` is place index % 4 of pair index // 4; holds no state, so any process can build any one. A
    source gives as many samples to a batch as the run's own step takes, but at most `samples`, and no more than lets
    all batches have different ones.
    """

    def __init__(self, config: Config, pairs: int, samples: int) -> None:
        self.config = config
        self.plan = build_plan(config, world_size=1)
        # The plan's own quotas are of no concern here: only its order of samples and their draws are used.
        self.layout = BatchLayout(config, self.plan, 0)
        self.reader = TrainReader(config, self.plan, READERS["pyav"])
        distinct = min(len(self._positions(source)) for source in range(len(self.plan.sources)))
        self.pairs = max(1, min(pairs, distinct // (2 * SMALL)))
        self.quotas = [self._quota(source, samples) for source in range(len(self.plan.sources))]

    @property
    def samples(self) -> dict[str, int]:
        """Samples of each source in a batch of its modality."""
        return {source.config.name: quota for source, quota in zip(self.plan.sources, self.quotas, strict=True)}

    def __len__(self) -> int:
        """All batches."""
        return self.pairs * len(PLACES)

    def __iter__(self) -> Iterator[list[PackedBatch]]:
        """The four batches of each pair, in the order of PLACES, decoded ahead by the run's number of workers."""
        batches: list[PackedBatch] = []
        with contextlib.closing(in_order(self, range(len(self)), self.config.data.workers)) as stream:
            for batch, skipped in stream:
                for item in skipped:
                    logger.warning("%s (source %s): replaced by the next readable sample", item.problem, item.source)
                batches.append(batch)
                if len(batches) == len(PLACES):
                    yield batches
                    batches = []

    def __getitem__(self, index: int) -> Built:
        """The packed batch, and the files that could not be read for it."""
        pair, place = divmod(index, len(PLACES))
        modality, half = PLACES[place]
        planned = [
            self._views(number, 2 * pair + half) if source.config.modality == modality else []
            for number, source in enumerate(self.plan.sources)
        ]
        pixels = {name: pixel_buffer(shape) for name, shape in self.layout.shapes(planned, self.reader).items()}
        views, skipped = self.layout.read(
            planned, {name: tensor.numpy() for name, tensor in pixels.items()}, self.reader
        )
        counts = {name: sum(map(len, views)) if name == modality else 0 for name in MODALITIES}
        info = StepInfo(step=index, epoch=EPOCH, step_samples=counts, training=True)
        return self.layout.packer.pack(views, pixels, info), skipped

    def _views(self, source: int, place: int) -> list[PlannedView]:
        """Views of the batch at a place among all batches of the source's modality."""
        quota, order = self.quotas[source], self.plan.order(source, EPOCH)
        chosen = self._positions(source)[place * quota : (place + 1) * quota]
        return [
            PlannedView(source=source, row=int(order[position]), epoch=EPOCH, position=int(position), view=0)
            for position in chosen
        ]

    def _positions(self, source: int) -> NDArray[np.int64]:
        """Places in an epoch's order where a sample comes for the first time; weighted sampling repeats some."""
        _, first = np.unique(self.plan.order(source, EPOCH), return_index=True)
        return np.sort(first)

    def _quota(self, source: int, samples: int) -> int:
        settings, distinct = self.plan.sources[source].config, len(self._positions(source))
        mix = self.config.data.mix
        unit = 2 if mix.mixup_alpha > 0 or mix.cutmix_alpha > 0 else 1
        batches = 2 * self.pairs
        quota = min(self.config.batch.per_step[settings.name], samples, distinct // batches) // unit * unit
        if quota < 1:
            raise DataError(
                f"{settings.manifest}: {distinct} training samples do not make {batches} batches of {unit} or more "
                f"without a sample in common"
            )
        return quota
