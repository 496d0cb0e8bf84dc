"""Who shares experts with whom: routing of images and clips compared layer by layer, by class, and among experts.

Letters: L MoAE layers, E experts, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s4d.analysis.correlation.routing_numbers import (
    DRAWS,
    ClassInformation,
    Tested,
    class_information,
    lift,
    overlap,
    routing_distance,
)
from s4d.analysis.correlation.routing_pass import Choices, collect_choices
from s4d.analysis.correlation.run_names import run_names
from s4d.analysis.routing_maps import DEAD_SHARE
from s4d.config import load
from s4d.data.batch import MODALITIES
from s4d.data.evaluation import build_evaluation
from s4d.errors import UsageError
from s4d.models.trained import TrainedModel, load_trained

Floats = NDArray[np.float64]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRouting:
    """One MoAE layer, block number `layer`.

    `usage` (E,) and `lift` (E, E) are by modality. `distance` between the modalities' usage, `class_matched` (the same
    with every class that both have counted equally) and `overlap` are None where the run has one modality or, for
    `class_matched`, no class in common. `dead` experts have less than the stated share in every modality.
    """

    layer: int
    usage: dict[str, Floats]
    lift: dict[str, Floats]
    dead: tuple[int, ...]
    distance: Tested | None
    class_matched: Tested | None
    overlap: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "layer": self.layer,
            "usage": {name: values.tolist() for name, values in self.usage.items()},
            "lift": {name: _table(values) for name, values in self.lift.items()},
            "dead": list(self.dead),
            "distance": None if self.distance is None else self.distance.to_dict(),
            "class_matched_distance": None if self.class_matched is None else self.class_matched.to_dict(),
            "overlap": self.overlap,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRouting:
    """One source: `usage` (L, K, E) by class, NaN for a class without samples, and what experts tell of the class."""

    source: str
    modality: str
    classes: tuple[str, ...]
    samples: int
    unreadable: int
    usage: Floats
    information: tuple[ClassInformation, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "source": self.source,
            "modality": self.modality,
            "classes": list(self.classes),
            "samples": self.samples,
            "unreadable": self.unreadable,
            "usage": [_table(layer) for layer in self.usage],
            "class_information": [item.to_dict() for item in self.information],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRouting:
    """One run with experts; `class_distance` has for each class of both modalities the distance in every layer."""

    run: str
    num_experts: int
    top_k: int
    layers: tuple[LayerRouting, ...]
    sources: tuple[SourceRouting, ...]
    class_distance: dict[str, tuple[Tested, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "run": self.run,
            "num_experts": self.num_experts,
            "top_k": self.top_k,
            "layers": [layer.to_dict() for layer in self.layers],
            "sources": [source.to_dict() for source in self.sources],
            "class_distance": {name: [item.to_dict() for item in found] for name, found in self.class_distance.items()},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingStudy:
    """Runs with experts on one split; `dead_share` is what an expert needs to be alive, `draws` those of each test."""

    runs: tuple[RunRouting, ...]
    split: str
    dead_share: float
    draws: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "split": self.split,
            "dead_share": self.dead_share,
            "draws": self.draws,
            "seed": self.seed,
            "runs": [run.to_dict() for run in self.runs],
        }


def routing_study(
    runs: Sequence[Path],
    *,
    split: str = "test",
    dead_share: float = DEAD_SHARE,
    draws: int = DRAWS,
    seed: int = 0,
    names: Sequence[str] = (),
    device: torch.device | None = None,
    progress: Progress = lambda what, done, total: None,
) -> RoutingStudy:
    """Routing of runs with experts over their own evaluation batches, all views; `names` are what to call the runs.

    UsageError for a run without experts or without its configuration; DataError as reading weights and media raises it.
    """
    if draws < 1:
        raise UsageError(f"draws: expected at least 1, got {draws}")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = [load_trained(run, device=device) for run in runs]
    for run, model in zip(runs, models, strict=True):
        if model.arch.experts is None:
            raise UsageError(f"{run}: a model without experts routes nothing")
        if model.run_config is None:
            raise UsageError(f"{run}: is no run folder: its config.yaml, which says what data to show, is missing")
    found = []
    for name, model in zip(names or run_names(runs), models, strict=True):
        choices = _run_choices(model, split, device, partial(_prefixed, progress, name))
        experts = model.arch.experts
        assert experts is not None
        found.append(
            run_routing(name, experts.layers, experts.top_k, choices, dead_share=dead_share, draws=draws, seed=seed)
        )
    return RoutingStudy(runs=tuple(found), split=split, dead_share=dead_share, draws=draws, seed=seed)


def _prefixed(progress: Progress, run: str, what: str, done: int, total: int) -> None:
    progress(f"{run}: {what}", done, total)


def _run_choices(model: TrainedModel, split: str, device: torch.device, progress: Progress) -> list[Choices]:
    assert model.run_config is not None
    config = load(model.run_config, ["model.init_from=null"])
    return [
        collect_choices(
            model.module,
            build_evaluation(config, split, source.name, 0, 1),
            device,
            partial(progress, source.name),
        )
        for source in sorted(config.data.sources, key=lambda source: MODALITIES.index(source.modality))
    ]


def run_routing(
    run: str,
    layers: Sequence[int],
    top_k: int,
    choices: Sequence[Choices],
    *,
    dead_share: float = DEAD_SHARE,
    draws: int = DRAWS,
    seed: int = 0,
) -> RunRouting:
    """All numbers of one run from the choices of its sources; samples of one modality's sources are taken together."""
    present = [name for name in MODALITIES if any(item.modality == name for item in choices)]
    both = len(present) == len(MODALITIES)
    shares = {name: _joined([item.shares for item in choices if item.modality == name]) for name in present}
    usage = {name: values.mean(0) for name, values in shares.items()}
    pairs = {name: np.sum([item.pairs for item in choices if item.modality == name], axis=0) for name in present}
    by_class = {name: _by_class(choices, name) for name in present}
    names = [name for name in by_class["image"] if name in by_class["video"]] if both else []
    untested: list[Tested | None] = [None] * len(layers)

    def compared(images: list[Floats], clips: list[Floats]) -> Sequence[Tested | None]:
        return routing_distance(images, clips, draws=draws, seed=seed) if images else untested

    plain = compared([shares["image"]], [shares["video"]]) if both else untested
    matched = compared(*([by_class[modality][name] for name in names] for modality in MODALITIES)) if both else untested
    dead = np.all([values < dead_share for values in usage.values()], axis=0)
    return RunRouting(
        run=run,
        num_experts=len(dead[0]),
        top_k=top_k,
        layers=tuple(
            LayerRouting(
                layer=layer,
                usage={name: values[index] for name, values in usage.items()},
                lift={name: lift(tables[index]) for name, tables in pairs.items()},
                dead=tuple(int(expert) for expert in np.flatnonzero(dead[index])),
                distance=plain[index],
                class_matched=matched[index],
                overlap=float(overlap(usage["image"][index], usage["video"][index])) if both else None,
            )
            for index, layer in enumerate(layers)
        ),
        sources=tuple(_source(item, draws=draws, seed=seed) for item in choices),
        class_distance={
            name: tuple(routing_distance([by_class["image"][name]], [by_class["video"][name]], draws=draws, seed=seed))
            for name in names
        },
    )


def _joined(parts: Sequence[Floats]) -> Floats:
    return np.concatenate(list(parts))


def _by_class(choices: Sequence[Choices], modality: str) -> dict[str, Floats]:
    """Shares (n, L, E) of a modality's samples by the name of their class, for the classes that have samples."""
    found: dict[str, list[Floats]] = {}
    for item in choices:
        for number, name in enumerate(item.classes):
            rows = item.shares[item.labels == number]
            if item.modality == modality and len(rows):
                found.setdefault(name, []).append(rows)
    return {name: _joined(parts) for name, parts in found.items()}


def _source(choices: Choices, *, draws: int, seed: int) -> SourceRouting:
    usage = np.full((choices.shares.shape[1], len(choices.classes), choices.shares.shape[2]), np.nan)
    for number in range(len(choices.classes)):
        rows = choices.shares[choices.labels == number]
        if len(rows):
            usage[:, number] = rows.mean(0)
    information = class_information(choices.shares, choices.labels, len(choices.classes), draws=draws, seed=seed)
    return SourceRouting(
        source=choices.source,
        modality=choices.modality,
        classes=choices.classes,
        samples=len(choices.labels),
        unreadable=choices.unreadable,
        usage=usage,
        information=tuple(information),
    )


def _table(values: Floats) -> list[list[float | None]]:
    """Rows of a matrix for JSON, None for NaN."""
    return [[None if value != value else float(value) for value in row] for row in values]
