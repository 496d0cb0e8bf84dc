"""What a model makes of every sample of a split under one showing: class probabilities and the features of each block.

Letters: n samples, V views, K classes of a head, L blocks, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s4d.config import Config
from s4d.config_section import Modality
from s4d.data.evaluation import EvalBatches, build_evaluation
from s4d.errors import DataError
from s4d.models.classifier import ClassifierOutput, FinetuneModel
from s4d.models.stream import mean_per_sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Showing:
    """A way to show a source: as what it is (`frames` 0), each of `frames` frames as an image, or a still held."""

    name: str
    source: str
    shown_as: Modality
    frames: int = 0

    def batches(self, config: Config, split: str) -> EvalBatches:
        """The source's samples, shown so."""
        return build_evaluation(
            config,
            split,
            self.source,
            0,
            1,
            repeated_frames=self.frames,
            shown_as=self.shown_as if self.frames else None,
        )


def showings(images: str, clips: str, num_frames: int) -> dict[str, Showing]:
    """The four showings of a source of images and a source of clips."""
    found = (
        Showing(name="images", source=images, shown_as="image"),
        Showing(name="frames", source=clips, shown_as="image", frames=num_frames),
        Showing(name="clips", source=clips, shown_as="video"),
        Showing(name="stilled", source=images, shown_as="video", frames=1),
    )
    return {showing.name: showing for showing in found}


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """The readable samples of one showing, in the order of the split.

    `labels` are class names. `probabilities` has (n, V, K) for each head; `pooled` (n, D) are the features that heads
    see and `blocks` (L, n, D) the means over tokens of what each block gives, both averaged over views;
    `middle_blocks` is `blocks` of the middle view alone.
    """

    showing: Showing
    sample_ids: tuple[str, ...]
    labels: tuple[str, ...]
    probabilities: dict[str, NDArray[np.float64]]
    pooled: NDArray[np.float32]
    blocks: NDArray[np.float32]
    middle_blocks: NDArray[np.float32]
    unreadable: int

    def rows(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """Rows of the samples whose true class is one of `classes`."""
        return np.flatnonzero(np.isin(np.array(self.labels), np.array(classes)))

    def numbers(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """Number in `classes` of each sample's true class, -1 for others."""
        place = {name: number for number, name in enumerate(classes)}
        return np.array([place.get(label, -1) for label in self.labels], dtype=np.int64)


def same_samples(first: Observed, second: Observed) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of both for the samples that both could read; DataError if there is none."""
    place = {name: row for row, name in enumerate(second.sample_ids)}
    pairs = [(row, place[name]) for row, name in enumerate(first.sample_ids) if name in place]
    if not pairs:
        raise DataError(
            f"{first.showing.source}: no sample could be read both as {first.showing.name} and as {second.showing.name}"
        )
    rows = np.array(pairs, dtype=np.int64)
    return rows[:, 0], rows[:, 1]


def observe(
    model: FinetuneModel,
    showing: Showing,
    batches: EvalBatches,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Observed:
    """Run the model over the batches; DataError if a sample is unreadable under `on_error: error`, or all are."""
    store: _Store | None = None
    with _block_outputs(model) as outputs, torch.no_grad():
        for number, item in enumerate(batches, start=1):
            outputs.clear()
            batch = item.batch.to(device)
            result: ClassifierOutput = model(batch)
            blocks = torch.stack([mean_per_sequence(output, batch.layout) for output in outputs])
            if store is None:
                store = _Store.empty(batches, result, blocks)
            store.put(item.samples, item.views, item.weights > 0, result, blocks)
            progress(number, len(batches))
    if batches.refused:
        raise DataError(batches.refused)
    if store is None or not store.read.any():
        raise DataError(f"{batches.source.config.manifest}: not one sample could be read")
    return store.observed(showing, batches)


@contextmanager
def _block_outputs(model: FinetuneModel) -> Iterator[list[Tensor]]:
    """A list that each forward appends its blocks' outputs (T, D) to."""
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, output: outputs.append(output[0])) for block in model.blocks]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(kw_only=True, slots=True)
class _Store:
    """Sums over views, filled batch by batch."""

    read: NDArray[np.bool_]
    views: int
    probabilities: dict[str, NDArray[np.float64]]
    pooled: NDArray[np.float32]
    blocks: NDArray[np.float32]
    middle_blocks: NDArray[np.float32]

    @classmethod
    def empty(cls, batches: EvalBatches, result: ClassifierOutput, blocks: Tensor) -> _Store:
        samples, views, (layers, _, width) = len(batches.source.rows), len(batches.views), blocks.shape
        return cls(
            read=np.zeros(samples, dtype=np.bool_),
            views=views,
            probabilities={name: np.zeros((samples, views, head.shape[1])) for name, head in result.logits.items()},
            pooled=np.zeros((samples, width), dtype=np.float32),
            blocks=np.zeros((layers, samples, width), dtype=np.float32),
            middle_blocks=np.zeros((layers, samples, width), dtype=np.float32),
        )

    def put(self, samples: Tensor, views: Tensor, real: Tensor, result: ClassifierOutput, blocks: Tensor) -> None:
        """Add the rows of one batch that `real` names; a sample's views are all in one batch."""
        chosen, place = samples[real].numpy(), views[real].numpy()
        self.read[chosen] = True
        for name, logits in result.logits.items():
            self.probabilities[name][chosen, place] = logits.double().softmax(1).cpu().numpy()[real.numpy()]
        np.add.at(self.pooled, chosen, result.features.float().cpu().numpy()[real.numpy()] / self.views)
        values = blocks.float().cpu().numpy()[:, real.numpy()]
        for layer, rows in enumerate(values):
            np.add.at(self.blocks[layer], chosen, rows / self.views)
        middle = place == self.views // 2
        self.middle_blocks[:, chosen[middle]] = values[:, middle]

    def observed(self, showing: Showing, batches: EvalBatches) -> Observed:
        """The readable samples."""
        source, kept = batches.source, np.flatnonzero(self.read)
        arrays: dict[str, Any] = {
            name: getattr(self, name)[:, kept] if name != "pooled" else self.pooled[kept]
            for name in ("pooled", "blocks", "middle_blocks")
        }
        return Observed(
            showing=showing,
            sample_ids=tuple(source.rows[row].sample_id for row in kept),
            labels=tuple(source.classes[source.labels[row]] for row in kept),
            probabilities={name: values[kept] for name, values in self.probabilities.items()},
            unreadable=len(self.read) - len(kept),
            **arrays,
        )
