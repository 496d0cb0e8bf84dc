"""Training batches of one rank as a pure function of the step number, decoded ahead in worker processes."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence

import torch

from s4d.config import Config
from s4d.data.backends import FIELD, choose, require
from s4d.data.batch import MODALITIES, PackedBatch
from s4d.data.micro_batches import READERS, Built, MicroBatches
from s4d.data.plan import SamplePlan, build_plan
from s4d.data.reading import Skipped
from s4d.data.trial import refusal
from s4d.data.upload import uploaded
from s4d.data.workers import in_order
from s4d.errors import UsageError

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")


class TrainBatches:
    """The step sequence of one rank; see `engine.protocols.Batches`."""

    def __init__(self, config: Config, plan: SamplePlan, rank: int, device: torch.device = CPU) -> None:
        self.config = config
        self.plan = plan
        self.rank = rank
        self.device = device
        self._backend: str | None = None
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

    def choices(self) -> dict[str, str]:
        """What was chosen automatically, so that a continued run decodes as the first one did."""
        return {FIELD: self._backend} if self._backend and self.config.data.backend == "auto" else {}

    def replay(self, choices: Mapping[str, str]) -> None:
        """Keep to stored choices; UsageError where the backend of then cannot be used now."""
        if self.config.data.backend == "auto" and FIELD in choices:
            reason = refusal(choices[FIELD])
            if reason:
                raise UsageError(f"{FIELD}: the run so far was decoded by {choices[FIELD]}: {reason}")
            self._backend = choices[FIELD]

    def fingerprints(self) -> dict[str, str | None]:
        """Hashes of every source's list of samples and of its cache, None where it has none."""
        sources = {source.config.name: source for source in self.plan.sources}
        hashes: dict[str, str | None] = {}
        for index, settings in enumerate(self.config.data.sources):
            source = sources[settings.name]
            hashes[f"data.sources.{index}.manifest (content)"] = source.fingerprint
            hashes[f"data.sources.{index}.cache (content)"] = source.cache.id if source.cache is not None else None
        return hashes

    def counters(self) -> dict[str, int]:
        """Unreadable samples met so far in the steps handed out, by modality."""
        return dict(self._skipped)

    def close(self) -> None:
        """End the worker processes."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            if self._workers:
                # What the processes shared refers to itself, and stays until it is gone.
                gc.collect()

    def _steps(self, start: int) -> Generator[list[PackedBatch], None, None]:
        accumulation = self.plan.accumulation
        indices = range(start * accumulation, self.total_steps * accumulation)
        with contextlib.closing(self._stream_of(indices)) as stream:
            for _ in range(start, self.total_steps):
                batches = []
                for _ in range(accumulation):
                    batch, skipped = next(stream)
                    self._note(skipped)
                    batches.append(batch)
                yield batches

    def _stream_of(self, indices: Sequence[int]) -> Generator[Built, None, None]:
        """Micro batches in order, decoded as the backend has it: in the worker processes, or by the GPU behind them."""
        if self._backend is None:
            self._backend = choose(self.config, self.plan, self.rank, self.device)
        if self._backend in READERS:
            batches = MicroBatches(self.config, self.plan, self.rank, self._backend)
            stream = in_order(batches, indices, self._workers)
            return stream if self.device.type == "cpu" else uploaded(stream, lambda built: built, self.device)
        from s4d.data.dali.drafts import Drafts
        from s4d.data.dali.finish import DaliMicroBatches, Finisher, finished

        if self.device.type == "cpu":
            return in_order(DaliMicroBatches(self.config, self.plan, self.rank), indices, self._workers)
        drafts = Drafts(self.config, self.plan, self.rank, on_cpu=False)
        return finished(in_order(drafts, indices, self._workers), Finisher(drafts, self.device))

    def _note(self, skipped: tuple[Skipped, ...]) -> None:
        for item in skipped:
            self._skipped[f"data/skipped/{self._modality[item.source]}"] += 1
            if item.problem not in self._named:
                self._named.add(item.problem)
                logger.warning("%s (source %s): replaced by the next readable sample", item.problem, item.source)


def build_batches(config: Config, rank: int, world_size: int, device: torch.device = CPU) -> TrainBatches:
    """Training batches of one rank that trains on `device`.

    UsageError for a configuration, DataError for manifests that do not fit.
    """
    plan = build_plan(config, world_size=world_size)
    require(config, plan, rank, device)
    return TrainBatches(config, plan, rank, device)
