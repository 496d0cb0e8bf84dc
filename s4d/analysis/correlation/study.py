"""The correlation study of trained runs: everything measured, as records, before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from s4d.analysis.correlation.features import Observed, observe, same_samples, showings
from s4d.analysis.correlation.labels import (
    Difficulty,
    MatrixCorrelation,
    SampleCorrelation,
    correlate_difficulty,
    correlate_samples,
    correlate_tables,
    mean_distributions,
)
from s4d.analysis.correlation.representation import (
    CentroidStudy,
    Comparison,
    MatchedPairs,
    between_modalities,
    between_runs,
    centroid_study,
    matched_pairs,
)
from s4d.analysis.correlation.subjects import Cast
from s4d.analysis.correlation.transfer import (
    Transfer,
    Verdict,
    frame_scores_of,
    judge,
    mean_of_views,
    on_shared,
    transfer,
)

Progress = Callable[[str, int, int], None]
Seen = Mapping[str, Observed]


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferStudy:
    """(a): `verdicts` of every head of every run on both kinds of media, the main run's `tasks` compared.

    `by_frame` has UAR and WAR of the main run's static head by the frame's place in the clip.
    """

    verdicts: tuple[Verdict, ...]
    tasks: tuple[Transfer, ...]
    by_frame: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "tasks": [task.to_dict() for task in self.tasks],
            "static_head_by_frame": [{"uar": uar, "war": war} for uar, war in self.by_frame],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RepresentationStudy:
    """(b): of the main run its centroids (None for fewer than three classes), modalities and matched pairs.

    `runs` compares each further run with the main one.
    """

    centroids: CentroidStudy | None
    modalities: tuple[Comparison, ...]
    runs: tuple[Comparison, ...]
    matched: MatchedPairs | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "centroids": None if self.centroids is None else self.centroids.to_dict(),
            "cka_between_modalities": [item.to_dict() for item in self.modalities],
            "cka_between_runs": [item.to_dict() for item in self.runs],
            "cka_of_class_matched_pairs": None if self.matched is None else self.matched.to_dict(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelStudy:
    """(e): `tables` of mean predictions by class, by what the static head was shown; clips one by one."""

    tables: dict[str, MatrixCorrelation]
    samples: dict[str, SampleCorrelation]
    difficulty: Difficulty

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "tables": {name: table.to_dict() for name, table in self.tables.items()},
            "clips": {name: found.to_dict() for name, found in self.samples.items()},
            "difficulty": self.difficulty.to_dict(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadStudy:
    """The parts of the study that need no more than forwards: (a), (b) and (e); counts of what was shown."""

    shown: dict[str, dict[str, int]]
    transfer: TransferStudy
    representation: RepresentationStudy
    labels: LabelStudy


def head_study(
    cast: Cast, split: str, device: torch.device, progress: Progress = lambda what, done, total: None
) -> HeadStudy:
    """Show every model the main run's data in every way that one of its heads is to be judged in."""
    ways = showings(cast.images, cast.clips, cast.config.model.num_frames)
    seen: dict[str, dict[str, Observed]] = {}
    for subject in cast.subjects:
        seen[subject.name] = {}
        for name in subject.shown:
            what = f"{subject.name}: {name}"
            seen[subject.name][name] = observe(
                subject.model.module,
                ways[name],
                ways[name].batches(cast.config, split),
                device,
                lambda done, total, what=what: progress(what, done, total),  # type: ignore[misc]
            )
    main = seen[cast.main.name]
    return HeadStudy(
        shown={
            name: {
                "samples": len(item.sample_ids),
                "views": next(iter(item.probabilities.values())).shape[1],
                "unreadable": item.unreadable,
                "of_shared_classes": len(item.rows(cast.shared.names)),
            }
            for name, item in main.items()
        },
        transfer=_transfer(cast, seen),
        representation=_representation(cast, seen),
        labels=_labels(cast, main),
    )


def _transfer(cast: Cast, seen: Mapping[str, Seen]) -> TransferStudy:
    shared = cast.shared.names
    verdicts = {}
    for subject in cast.subjects:
        for showing, head in subject.shown.items():
            for chosen in ("mean", "most confident") if showing == "frames" else ("mean",):
                found = judge(
                    seen[subject.name][showing], subject.name, head, subject.model.classes[head], shared, chosen
                )
                verdicts[subject.name, showing, chosen] = found
    name = cast.main.name
    frames = [verdicts[name, "frames", chosen] for chosen in ("mean", "most confident")]
    return TransferStudy(
        verdicts=tuple(verdicts.values()),
        tasks=(
            transfer("clips", verdicts[name, "clips", "mean"], frames),
            transfer("images", verdicts[name, "images", "mean"], [verdicts[name, "stilled", "mean"]]),
        ),
        by_frame=frame_scores_of(seen[name]["frames"], cast.images, cast.main.model.classes[cast.images], shared),
    )


def _representation(cast: Cast, seen: Mapping[str, Seen]) -> RepresentationStudy:
    name, shared = cast.main.name, cast.shared.names
    main = seen[name]
    return RepresentationStudy(
        centroids=centroid_study(main["images"], main["clips"], shared),
        modalities=tuple(between_modalities(name, main)),
        runs=tuple(
            between_runs(name, other.name, showing, main[showing], item)
            for other in cast.subjects[1:]
            for showing, item in seen[other.name].items()
        ),
        matched=matched_pairs(main["images"], main["clips"], shared),
    )


def _labels(cast: Cast, main: Seen) -> LabelStudy:
    shared = cast.shared.names
    frames, clips = same_samples(main["frames"], main["clips"])
    both = {"frames": main["frames"].numbers(shared)[frames], "clips": main["clips"].numbers(shared)[clips]}
    kept = both["clips"] >= 0
    static = _distributions(cast, main["frames"], cast.images)[frames][kept]
    dynamic = _distributions(cast, main["clips"], cast.clips)[clips][kept]
    numbers = both["clips"][kept]
    return LabelStudy(
        tables={showing: _table(cast, main[showing], main["clips"]) for showing in ("images", "frames")},
        samples=correlate_samples(static, dynamic, numbers),
        difficulty=correlate_difficulty(static, dynamic, numbers),
    )


def _distributions(cast: Cast, observed: Observed, head: str) -> np.ndarray:
    """Mean over views of a main head's probabilities on the shared classes, (n, S)."""
    columns = [cast.main.model.classes[head].index(name) for name in cast.shared.names]
    return mean_of_views(on_shared(observed.probabilities[head], columns))


def _table(cast: Cast, static: Observed, dynamic: Observed) -> MatrixCorrelation:
    """Tables of the shared classes that have samples on both sides."""
    shared = cast.shared.names
    names: Sequence[str] = [name for name in shared if name in static.labels and name in dynamic.labels]
    places = [shared.index(name) for name in names]
    tables = []
    for observed, head in ((static, cast.images), (dynamic, cast.clips)):
        rows = observed.rows(names)
        values = on_shared(_distributions(cast, observed, head)[rows], places)
        tables.append(mean_distributions(values, observed.numbers(names)[rows], len(names)))
    return correlate_tables(tables[0], tables[1], names)
