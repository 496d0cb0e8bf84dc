"""Scores of a classifier on one split, exact across ranks: every sample counts once, whatever the padding.

Letters: n samples, V views, K classes, L MoAE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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

    `expert_counts` (L, K, E) says how often tokens of samples of each class chose each expert; None without experts.
    """

    source: str
    modality: str
    split: str
    scores: Scores
    sample_ids: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
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
        training = module.training
        module.eval()
        try:
            with torch.no_grad():
                return {
                    source.name: self._source(module, split, source.name, frame_baseline and source.modality == "video")
                    for source in self.config.data.sources
                }
        finally:
            module.train(training)

    def _source(self, module: nn.Module, split: str, name: str, frame_baseline: bool) -> SourceResult:
        batches = self._batches(split, name)
        labels = np.asarray(batches.source.labels, dtype=np.int64)
        views, seen, expert_counts = self._views(module, batches)
        read: NDArray[np.bool_] = np.any(seen, axis=1)
        if not read.any():
            raise DataError(f"{batches.source.config.manifest}: not one sample of split {split!r} could be read")
        frames = None
        if frame_baseline:
            frames = self._frame_baseline(module, self._batches(split, name, self.config.model.num_frames))
        probabilities = views.sum(1)[read] / seen.sum(1)[read, None]
        return SourceResult(
            source=name,
            modality=batches.source.config.modality,
            split=split,
            scores=scores(labels[read], probabilities.argmax(1), batches.classes),
            sample_ids=tuple(row.sample_id for row, has in zip(batches.source.rows, read, strict=True) if has),
            labels=labels[read],
            probabilities=probabilities,
            unreadable=int((~read).sum()),
            expert_counts=expert_counts,
            frames=frames,
        )

    def _batches(self, split: str, name: str, repeated_frames: int = 0) -> EvalBatches:
        return build_evaluation(self.config, split, name, self.rank, self.world_size, repeated_frames=repeated_frames)

    def _frame_baseline(self, module: nn.Module, batches: EvalBatches) -> FrameBaseline:
        views, seen, _ = self._views(module, batches)
        read = seen.all(1)
        return frame_scores(views[read], np.asarray(batches.source.labels)[read], batches.classes)

    def _views(
        self, module: nn.Module, batches: EvalBatches
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64] | None]:
        """Probabilities (n, V, K) of each view, which views (n, V) were read, and expert counts (L, K, E)."""
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
            probabilities = output.logits[batches.source.config.name].to(torch.float64).softmax(1)
            table.index_add_(0, cells, probabilities * weights[:, None])
            seen.index_add_(0, cells, weights)
            if output.routing:
                added = _class_counts(output, item, classes)
                counts = added if counts is None else counts + added
        refuse_together(batches.refused)
        table, seen = sum_over_ranks(table), sum_over_ranks(seen)
        total = None if counts is None else sum_over_ranks(counts).cpu().numpy()
        shaped = table.view(samples, views, classes).cpu().numpy()
        return shaped, seen.view(samples, views).cpu().numpy() > 0, total


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
