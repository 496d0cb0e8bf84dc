"""Extraction from start to end: files that are there already are not computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from s4d.analysis.extract.features import features_of, samples_per_forward
from s4d.analysis.extract.samples import Group, SampleViews, ViewReader, manifests_of, one_view, read_groups
from s4d.analysis.extract.shards import (
    Shard,
    claim_index,
    finish_index,
    read_problems,
    sha256_of,
    shard_name,
    write_shard,
)
from s4d.data.workers import in_order
from s4d.errors import DataError
from s4d.inference.model import recipes_of
from s4d.models.folder import MODEL_FILE
from s4d.models.trained import TrainedModel, load_trained

KINDS = ("pooled", "tokens")
DTYPES = ("float32", "float16")


@dataclass(frozen=True, kw_only=True, slots=True)
class Extraction:
    """What to extract: `data` are manifests or run configurations, `shard` the samples of one file."""

    model: Path
    data: tuple[Path, ...]
    out: Path
    kind: str = "pooled"
    dtype: str = "float32"
    file_format: str = "npz"
    shard: int = 256
    head: str | None = None
    skip_unreadable: bool = False
    workers: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The samples `first` to `last` (not included) of a group, which share one file."""

    group: Group
    first: int
    last: int
    file: str


def extract(
    wanted: Extraction, *, device: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Write the features and return their index; a call that was cut short is continued by the same call.

    UsageError for a folder that holds other features; DataError for a model, manifest or medium that cannot be read.
    """
    trained = load_trained(wanted.model, device=device)
    groups = read_groups(manifests_of(wanted.data), trained, recipes_of(trained), wanted.head)
    if wanted.kind == "tokens":
        groups = [one_view(group) for group in groups]
    request = {
        "weights": sha256_of(trained.folder / MODEL_FILE),
        "kind": wanted.kind,
        "dtype": wanted.dtype,
        "format": wanted.file_format,
        "shard": wanted.shard,
        "data": [
            {
                "manifest": group.manifest,
                "fingerprint": group.source.fingerprint,
                "modality": group.modality,
                "samples": len(group.source.rows),
                "input": group.recipe.to_dict(),
            }
            for group in groups
        ],
    }
    claim_index(wanted.out, request)
    parts = _parts(groups, wanted)
    total, done, files = sum(part.last - part.first for part in parts), 0, []
    for part in parts:
        problems = _part(trained, part, wanted)
        done += part.last - part.first
        progress(done, total)
        files.append(
            {
                "file": part.file,
                "manifest": part.group.manifest,
                "modality": part.group.modality,
                "samples": part.last - part.first - len(problems),
                "unreadable": list(problems),
            }
        )
    return finish_index(wanted.out, request, files)


def _parts(groups: list[Group], wanted: Extraction) -> list[Part]:
    cuts = [
        (group, first, min(first + wanted.shard, len(group.source.rows)))
        for group in groups
        for first in range(0, len(group.source.rows), wanted.shard)
    ]
    return [
        Part(group=group, first=first, last=last, file=shard_name(number, wanted.file_format))
        for number, (group, first, last) in enumerate(cuts)
    ]


def _part(trained: TrainedModel, part: Part, wanted: Extraction) -> tuple[str, ...]:
    """Write one file if it is not there; the lines about samples that it lacks."""
    rows = part.group.source.rows[part.first : part.last]
    path = wanted.out / part.file
    known = read_problems(path, [row.sample_id for row in rows])
    if known is not None and (wanted.skip_unreadable or not known):
        return known
    problems: list[str] = []
    kept: list[int] = []

    def read() -> Iterator[SampleViews]:
        numbers = range(part.first, part.last)
        for number, sample in zip(numbers, in_order(ViewReader(part.group), numbers, wanted.workers), strict=True):
            if sample.problem is None:
                kept.append(number - part.first)
                yield sample
            elif wanted.skip_unreadable:
                problems.append(sample.problem)
            else:
                raise DataError(sample.problem)

    size = samples_per_forward(part.group.recipe, len(part.group.views))
    stream, blocks = read(), []
    while samples := list(islice(stream, size)):
        blocks.append(features_of(trained, part.group.recipe, samples, wanted.kind))
    if not blocks:
        raise DataError(f"{part.group.manifest}: {len(problems)} samples in a row are unreadable; {problems[-1]}")
    features = np.concatenate(blocks).astype(wanted.dtype)
    for place, row in zip(kept, features, strict=True):
        if not np.isfinite(row).all():
            sample = f"{part.group.manifest}: sample {rows[place].sample_id!r}"
            raise DataError(f"{sample}: its features are not finite in {wanted.dtype}")
    write_shard(
        path,
        Shard(
            sample_ids=tuple(rows[place].sample_id for place in kept),
            labels=tuple(rows[place].label or "" for place in kept),
            problems=tuple(problems),
            features=features,
        ),
    )
    return tuple(problems)
