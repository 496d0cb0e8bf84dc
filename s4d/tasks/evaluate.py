"""Scores of a classifier on one split, exact across ranks: every sample counts once, whatever the padding.

Letters: n samples, V views, K classes, L MoAE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from s4d.analysis.predictions import mean_over_views, view_probabilities
from s4d.config import Config
from s4d.data.evaluation import EvalBatch, EvalBatches, build_evaluation
from s4d.errors import DataError
from s4d.metrics import Scores, scores
from s4d.models.classifier import ClassifierOutput
from s4d.tasks.balance import choices_per_sequence
from s4d.tasks.collective import refuse_together, sum_over_ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameBaseline:
    """The same model shown one frame of each clip, held for the clip's length.

    `uar` has one entry per frame position; `most_confident` lets each clip pick the frame that the model is surest of.
    """

    uar: tuple[float, ...]
    most_confident: float

    @property
    def best(self) -> float:
        """The stronger of the best fixed position and the most confident frame."""
        return max(*self.uar, self.most_confident)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceResult:
    """One head on one split: `probabilities` (n, K) are means over views; unreadable samples are left out and counted.

    `logits` (n, V, K) are those of each view, NaN where a view could not be read.
    `expert_counts` (L, K, E) says how often tokens of samples of each class chose each expert; None without experts.
    """

    source: str
    modality: str
    split: str
    scores: Scores
    sample_ids: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    logits: NDArray[np.float64]
    unreadable: int
    expert_counts: NDArray[np.int64] | None
    frames: FrameBaseline | None

    def summary(self) -> dict[str, float]:
        """The few numbers worth logging."""
        numbers = {"uar": self.scores.uar, "war": self.scores.war}
        if self.frames is not None:
            numbers["best_frame_uar"] = self.frames.best
        return numbers


class Evaluator:
    """Runs a classifier over the evaluation batches of every source; all ranks get equal results."""

    def __init__(self, config: Config, *, rank: int, world_size: int, device: torch.device) -> None:
        self.config = config
        self.rank = rank
        self.world_size = world_size
        self.device = device

    def evaluate(self, module: nn.Module, split: str, *, frame_baseline: bool = False) -> dict[str, SourceResult]:
        """Results by source name; DataError if not one sample of a source could be read. Leaves the mode as it was."""
        with _scoring(module):
            return {
                source.name: self._source(
                    module, split, source.name, frame_baseline=frame_baseline and source.modality == "video"
                )
                for source in self.config.data.sources
            }

    def reordered(self, module: nn.Module, split: str, name: str, frame_order: str) -> SourceResult:
        """Result of one source whose clips show their frames in another order (`s4d.data.sampling.FRAME_ORDERS`)."""
        with _scoring(module):
            return self._source(module, split, name, frame_order=frame_order)

    def _source(
        self, module: nn.Module, split: str, name: str, *, frame_baseline: bool = False, frame_order: str = "kept"
    ) -> SourceResult:
        batches = self._batches(split, name, frame_order=frame_order)
        labels = np.asarray(batches.source.labels, dtype=np.int64)
        logits, expert_counts = self._views(module, batches)
        read: NDArray[np.bool_] = np.any(~np.isnan(logits), axis=(1, 2))
        if not read.any():
            raise DataError(f"{batches.source.config.manifest}: not one sample of split {split!r} could be read")
        frames = None
        if frame_baseline:
            held = self._batches(split, name, repeated_frames=self.config.model.num_frames)
            frames = self._frame_baseline(module, held)
        probabilities = mean_over_views(view_probabilities(logits[read]))
        return SourceResult(
            source=name,
            modality=batches.source.config.modality,
            split=split,
            scores=scores(labels[read], probabilities.argmax(1), batches.classes),
            sample_ids=tuple(row.sample_id for row, has in zip(batches.source.rows, read, strict=True) if has),
            labels=labels[read],
            probabilities=probabilities,
            logits=logits[read],
            unreadable=int((~read).sum()),
            expert_counts=expert_counts,
            frames=frames,
        )

    def _batches(self, split: str, name: str, **views: Any) -> EvalBatches:
        return build_evaluation(self.config, split, name, self.rank, self.world_size, **views)

    def _frame_baseline(self, module: nn.Module, batches: EvalBatches) -> FrameBaseline:
        logits, _ = self._views(module, batches)
        read = ~np.isnan(logits).any((1, 2))
        labels = np.asarray(batches.source.labels)[read]
        return frame_scores(view_probabilities(logits[read]), labels, batches.classes)

    def _views(self, module: nn.Module, batches: EvalBatches) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """Logits (n, V, K) of each view, NaN where it was not read, and expert counts (L, K, E).

        DataError on all ranks for logits that are not finite: no score could be made of them.
        """
        samples, views, classes = len(batches.source.rows), len(batches.views), len(batches.classes)
        table = torch.zeros(samples * views, classes, dtype=torch.float64, device=self.device)
        seen = torch.zeros(samples * views, dtype=torch.float64, device=self.device)
        counts: Tensor | None = None
        for item in batches:
            batch = item.batch.to(self.device)
            output: ClassifierOutput = module(batch)
            weights = item.weights.to(self.device, torch.float64)
            # Padding has sample -1 and weight 0; it is added, as nothing, to the first row.
            cells = (item.samples.clamp(min=0) * views + item.views).to(self.device)
            logits = output.logits[batches.source.config.name].to(torch.float64)
            table.index_add_(0, cells, torch.where(weights[:, None] > 0, logits, 0.0))
            seen.index_add_(0, cells, weights)
            if output.routing:
                added = _class_counts(output, item, classes)
                counts = added if counts is None else counts + added
        refuse_together(batches.refused)
        # Every cell has one rank's logits and the others' zeros, so that the sums are exact.
        table, seen = sum_over_ranks(table), sum_over_ranks(seen)
        total = None if counts is None else sum_over_ranks(counts).cpu().numpy()
        finite = table.isfinite().all(1).view(samples, views).cpu().numpy().all(1)
        if not finite.all():
            source, sample = batches.source.config.name, batches.source.rows[int(finite.argmin())].sample_id
            raise DataError(f"source {source}: sample {sample!r}: the model's logits are not finite")
        shaped = torch.where(seen[:, None] > 0, table, torch.nan).view(samples, views, classes)
        return shaped.cpu().numpy(), total


@contextmanager
def _scoring(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)


def _class_counts(output: ClassifierOutput, item: EvalBatch, classes: int) -> Tensor:
    """Expert choices of the batch's real samples by class, (L, K, E)."""
    counts = [choices_per_sequence(t, item.batch.layout, item.batch.num_sequences) for t in output.routing]
    per_sequence = torch.stack(counts)
    real = (item.weights > 0).to(per_sequence)
    table = torch.zeros(len(counts), classes, per_sequence.shape[2], dtype=torch.int64, device=per_sequence.device)
    labels = item.labels.clamp(min=0).to(per_sequence.device)
    return table.index_add_(1, labels, per_sequence * real[:, None])


def frame_scores(views: NDArray[np.float64], labels: NDArray[np.int64], classes: Sequence[str]) -> FrameBaseline:
    """Baseline from the probabilities (n, V, K) of V held frames of each clip."""
    fixed = [scores(labels, views[:, place].argmax(1), classes).uar for place in range(views.shape[1])]
    surest = views.max(2).argmax(1)
    chosen = views[np.arange(len(views)), surest]
    return FrameBaseline(uar=tuple(fixed), most_confident=scores(labels, chosen.argmax(1), classes).uar)
