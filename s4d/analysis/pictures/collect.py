"""Runs a classifier over its test samples and keeps what the pictures need.

Every sample is seen in one view, so that a picture and the prediction under it belong together; an evaluation may
average more. Letters: n samples, D width, K classes, L MoAE layers,
S temporal slices, R rows, C columns, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s4d.analysis.pictures.activation import slice_probabilities
from s4d.analysis.pictures.expert_faces import first_choices, place_counts
from s4d.analysis.pictures.record import Drawn, FeatureMap, Pictures, SourcePictures
from s4d.analysis.pictures.rollout import pooled_relevance
from s4d.analysis.pictures.trace import sequences, traced
from s4d.analysis.pictures.tsne import FEWEST, embed, neighbourhood, perplexity_for
from s4d.config import Config, load
from s4d.data.batch import MODALITIES, PackedBatch
from s4d.data.evaluation import EvalBatches
from s4d.data.sources import Source, load_source
from s4d.errors import DataError, UsageError
from s4d.models.classifier import ClassifierOutput
from s4d.models.trained import TrainedModel, load_trained
from s4d.tasks.crop_provenance import crops_of, warn_of_changed_crops

ONE_VIEW = ("model.init_from=null", "evaluation.temporal_views=1", "evaluation.spatial_views=1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Walk:
    """A source's readable test samples: their places in the source, `features` (n, D), `probabilities` (n, K)."""

    source: Source
    places: NDArray[np.int64]
    labels: NDArray[np.int64]
    features: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    expert_counts: NDArray[np.int64]

    def sample_id(self, index: int) -> str:
        """Id of the sample in row `index`."""
        return self.source.rows[self.places[index]].sample_id


def collect_pictures(run: Path, *, samples: int, device: torch.device) -> Pictures:
    """Pictures of a fine-tuning run's newest checkpoint on its test split; `samples` limits the map of features."""
    config = load(run / "config.yaml", list(ONE_VIEW))
    if config.task != "finetune":
        raise UsageError(f"{run}: a {config.task} run has no classes to picture")
    trained = load_trained(run, device=device)
    warn_of_changed_crops(trained.folder, crops_of(config))
    walks = []
    with torch.inference_mode():
        for source in config.data.sources:
            loaded = load_source(config, source.name, "test")
            _check_classes(trained, loaded)
            walks.append(walk_source(trained, config, loaded, device))
        drawn = tuple(draw_source(trained, config, walk, device) for walk in walks)
    return Pictures(checkpoint=trained.folder.name, sources=drawn, features=map_features(walks, samples))


def _check_classes(trained: TrainedModel, source: Source) -> None:
    """A head's numbers mean what the checkpoint says; DataError if the manifest now says something else."""
    name = source.config.name
    if trained.classes.get(name) != source.classes:
        raise DataError(
            f"{source.config.manifest}: classes of source {name}: expected those of {trained.folder}, "
            f"{', '.join(trained.classes.get(name, ())) or 'none'}; got {', '.join(source.classes)}"
        )


def walk_source(trained: TrainedModel, config: Config, source: Source, device: torch.device) -> Walk:
    """One forward over every test sample of a source; DataError if not one could be read."""
    batches = EvalBatches(config, source, 0, 1)
    experts = trained.arch.experts
    layers, count = (len(experts.layers), experts.num_experts) if experts is not None else (0, 0)
    counts = torch.zeros(layers, trained.arch.side, trained.arch.side, count, dtype=torch.int64)
    places, features, probabilities = [], [], []
    for item in batches:
        output: ClassifierOutput = trained.module(item.batch.to(device))
        there = item.weights > 0
        places.append(item.samples[there])
        features.append(output.features.double().cpu()[there])
        probabilities.append(output.logits[source.config.name].double().softmax(1).cpu()[there])
        if count:
            counts += place_counts(first_choices(output.routing, _grid(trained, item.batch)).cpu()[there], count)
    _refuse(batches)
    found = torch.cat(places).numpy()
    if not len(found):
        raise DataError(f"{source.config.manifest}: not one sample of split 'test' could be read")
    return Walk(
        source=source,
        places=found,
        labels=np.asarray(source.labels, dtype=np.int64)[found],
        features=torch.cat(features).numpy(),
        probabilities=torch.cat(probabilities).numpy(),
        expert_counts=counts.numpy(),
    )


def _refuse(batches: EvalBatches) -> None:
    if batches.refused:
        raise DataError(batches.refused)


def _grid(trained: TrainedModel, batch: PackedBatch) -> tuple[int, int, int, int]:
    """(B, S, R, C) of a batch of one modality."""
    side = trained.arch.side
    return batch.num_sequences, batch.max_seqlen // side**2, side, side


def choose(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], names: Sequence[str]
) -> list[tuple[int, str]]:
    """Rows to draw: of the right and of the wrong predictions the surest and the median one, by their probability.

    Equal probabilities are ordered by sample id. Fewer where there are not so many.
    """
    predicted, sureness = probabilities.argmax(1), probabilities.max(1)
    chosen = []
    for kind, wanted in (("right", predicted == labels), ("wrong", predicted != labels)):
        order = sorted(np.flatnonzero(wanted).tolist(), key=lambda row: (-sureness[row], names[row]))
        rows = {f"surest {kind}": 0, f"median {kind}": len(order) // 2} if len(order) > 1 else {f"only {kind}": 0}
        chosen += [(order[place], rule) for rule, place in rows.items() if order]
    return chosen


def draw_source(trained: TrainedModel, config: Config, walk: Walk, device: torch.device) -> SourcePictures:
    """The chosen samples of a source once more, with everything that is drawn of them."""
    source = walk.source
    names = [walk.sample_id(row) for row in range(len(walk.places))]
    chosen = choose(walk.labels, walk.probabilities, names)
    rows = [row for row, _ in chosen]
    batches = EvalBatches(config, _subset(source, walk.places[rows].tolist()), 0, 1)
    parts: list[dict[str, Tensor]] = []
    for item in batches:
        wanted = (item.samples >= 0).tolist()
        if (item.weights > 0).tolist() != wanted:
            raise DataError(batches.refused or f"{source.config.manifest}: a sample could be read once, but not again")
        parts.append(_drawn_arrays(trained, item.batch.to(device), source.config.name, wanted))
    arrays = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
    predicted = walk.probabilities.argmax(1)
    return SourcePictures(
        source=source.config.name,
        modality=source.config.modality,
        classes=source.classes,
        samples=len(walk.places),
        unreadable=len(source.rows) - len(walk.places),
        layers=trained.arch.experts.layers if trained.arch.experts is not None else (),
        drawn=tuple(
            Drawn(
                sample_id=names[row],
                label=source.classes[walk.labels[row]],
                prediction=source.classes[predicted[row]],
                rule=rule,
            )
            for row, rule in chosen
        ),
        probabilities=walk.probabilities[rows].astype(np.float32),
        frames=arrays["frames"],
        relevance=arrays["relevance"],
        slice_probabilities=arrays["slice_probabilities"],
        experts=arrays["experts"],
        expert_counts=walk.expert_counts,
    )


def _subset(source: Source, places: Sequence[int]) -> Source:
    """The source with the rows at `places` alone, in that order."""
    cache = source.cache
    return replace(
        source,
        rows=tuple(source.rows[place] for place in places),
        labels=tuple(source.labels[place] for place in places),
        shares=None,
        cache=None if cache is None else replace(cache, records=tuple(cache.records[place] for place in places)),
    )


def _drawn_arrays(trained: TrainedModel, batch: PackedBatch, head: str, there: Sequence[bool]) -> dict[str, Tensor]:
    """Frames, relevance, slice probabilities and first choices of the sequences that are `there`, one at least."""
    with traced(trained.module) as trace:
        output: ClassifierOutput = trained.module(batch)
    assert trace.tokens is not None
    count, slices, *side = grid = _grid(trained, batch)
    layers = [sequences(qkv, batch.layout) for qkv in trace.qkv]
    kept = [number for number in range(count) if there[number]]
    tokens = sequences(trace.tokens, batch.layout)
    heads = trained.arch.num_heads
    relevance = [pooled_relevance([layer[number] for layer in layers], heads) for number in kept]
    probabilities = [slice_probabilities(trained.module, tokens[number], slices, head) for number in kept]
    return {
        "frames": batch.groups[0].pixels[kept],
        "relevance": torch.stack(relevance).view(-1, slices, *side),
        "slice_probabilities": torch.stack(probabilities),
        "experts": first_choices(output.routing, grid).to(torch.int16)[kept],
    }


def map_features(walks: Sequence[Walk], samples: int) -> FeatureMap | None:
    """At most `samples` test samples on one plane, equally many of each source where it has them, evenly spaced in
    the order of their ids; None for fewer than five, which have no neighbourhoods.
    """
    quota = samples // len(walks)
    classes = tuple(dict.fromkeys(name for walk in walks for name in walk.source.classes))
    numbers = {name: number for number, name in enumerate(classes)}
    features: list[NDArray[np.float64]] = []
    labels: list[int] = []
    modalities: list[int] = []
    for walk in walks:
        rows = np.unique(np.linspace(0, len(walk.places) - 1, min(quota, len(walk.places))).round().astype(np.int64))
        features.append(walk.features[rows])
        labels.extend(numbers[walk.source.classes[walk.labels[row]]] for row in rows)
        modalities.extend([MODALITIES.index(walk.source.config.modality)] * len(rows))
    table, of_class, of_modality = np.concatenate(features), np.asarray(labels), np.asarray(modalities)
    if len(table) < FEWEST:
        return None
    return FeatureMap(
        points=embed(table),
        labels=of_class,
        modalities=of_modality,
        classes=classes,
        perplexity=perplexity_for(len(table)),
        dim=table.shape[1],
        numbers=neighbourhood(table, of_class, of_modality),
    )
