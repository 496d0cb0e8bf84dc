"""The samples a run reads: manifest rows of each source at one split, with class numbers in head order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s4d.config import Config
from s4d.config_data import SourceConfig
from s4d.data.cache.read import CachedRows
from s4d.data.cache.select import select_cache
from s4d.data.counter import stable_key
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, read_manifest
from s4d.datasets.labels import order_of
from s4d.errors import DataError, UsageError

SPLITS = ("train", "val", "test")


class EmptySplitError(DataError):
    """A manifest has no rows of the split asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One split of a configured source: rows ordered by sample id, their class numbers (-1: none), class names.

    `shares` has a row per sample in class order, adding up to 1, where `targets: distribution` asks for it, else None.
    `cache` has the rows' decoded frames where the configuration names a folder of them.
    """

    config: SourceConfig
    rows: tuple[ManifestRow, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    root: Path
    fingerprint: str
    shares: tuple[tuple[float, ...], ...] | None = None
    cache: CachedRows | None = None

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.rows):
            raise ValueError(f"labels: expected {len(self.rows)}, got {len(self.labels)}")
        if self.shares is not None and len(self.shares) != len(self.rows):
            raise ValueError(f"shares: expected {len(self.rows)}, got {len(self.shares)}")


def load_sources(config: Config, split: str = "train") -> tuple[Source, ...]:
    """Every source of the run at one split, images first, as they are packed."""
    ordered = sorted(config.data.sources, key=lambda source: source.modality != "image")
    return tuple(load_source(config, source.name, split) for source in ordered)


def load_source(config: Config, name: str, split: str) -> Source:
    """One source at `train`, `val` or `test`; UsageError for a field of the run, DataError for a manifest's content."""
    if split not in SPLITS:
        raise UsageError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    index = next((i for i, source in enumerate(config.data.sources) if source.name == name), None)
    if index is None:
        known = ", ".join(source.name for source in config.data.sources)
        raise UsageError(f"source {name!r} is not in data.sources (known: {known})")
    source, field = config.data.sources[index], f"data.sources.{index}"
    manifest = read_manifest(source.manifest)
    if not manifest.root.is_dir():
        raise DataError(f"{source.manifest}: root: no such folder {manifest.root}")
    rows = _select(manifest, source, field, split, config.data.val_share)
    _check_kinds(rows, source, field)
    classes = _class_names(manifest, source, config.task == "finetune")
    soft = config.task == "finetune" and source.targets == "distribution"
    numbers = {label: number for number, label in enumerate(classes)}
    labels = []
    for row in rows:
        if config.task == "finetune" and row.label not in numbers:
            problem = "has no label" if row.label is None else f"has label {row.label!r}"
            raise DataError(
                f"{source.manifest}: sample {row.sample_id!r} {problem}, expected one of the classes of "
                f"{field}: {', '.join(classes)}"
            )
        labels.append(numbers.get(row.label, -1) if row.label is not None else -1)
    return Source(
        config=source,
        rows=rows,
        labels=tuple(labels),
        classes=classes,
        root=manifest.root,
        fingerprint=manifest.fingerprint,
        shares=_shares(rows, source, classes) if soft else None,
        cache=select_cache(config, source, rows, manifest.fingerprint),
    )


def _shares(rows: Sequence[ManifestRow], source: SourceConfig, classes: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    """Shares of each row in class order; votes for a class that the head lacks are refused, as such a label is."""
    shares = []
    for row in rows:
        where = f"{source.manifest}: sample {row.sample_id!r}: field 'distribution'"
        if row.distribution is None:
            raise DataError(f"{where} is empty, but source {source.name} has targets: distribution")
        votes = dict(row.distribution)
        stranger = next((name for name, share in votes.items() if share > 0 and name not in classes), None)
        if stranger is not None:
            raise DataError(f"{where}: {stranger!r} is not one of the classes {', '.join(classes)}")
        total = sum(votes.values())
        shares.append(tuple(votes.get(name, 0.0) / total for name in classes))
    return tuple(shares)


def head_classes(config: Config) -> dict[str, tuple[str, ...]]:
    """Class names of each head in configuration order; empty for pre-training, which reads no labels."""
    if config.task != "finetune":
        return {}
    return {source.name: _class_names(read_manifest(source.manifest), source, True) for source in config.data.sources}


def _class_names(manifest: Manifest, source: SourceConfig, needed: bool) -> tuple[str, ...]:
    classes = manifest.classes
    if isinstance(source.classes, str):
        classes = order_of(manifest.dataset, source.classes, f"data.sources ({source.name}): classes")
    elif source.classes is not None:
        classes = tuple(source.classes)
    if len(set(classes)) != len(classes):
        raise UsageError(f"data.sources ({source.name}): classes: a name occurs twice in {list(classes)}")
    if source.classes is not None:
        unknown = [name for name in classes if name not in manifest.classes]
        if unknown:
            raise UsageError(
                f"data.sources ({source.name}): classes: {unknown[0]!r} is no class of {source.manifest} "
                f"(known: {', '.join(manifest.classes)})"
            )
    if needed and len(classes) < 2:
        raise DataError(f"{source.manifest}: fine-tuning needs at least two classes, got {list(classes)}")
    return classes


def _select(
    manifest: Manifest, source: SourceConfig, field: str, split: str, val_share: float
) -> tuple[ManifestRow, ...]:
    """Rows of the split and fold, ordered by sample id, so that the order of a manifest's lines changes nothing."""
    folds = sorted({row.fold for row in manifest.rows if row.fold is not None})
    if source.fold is not None and source.fold not in folds:
        raise UsageError(f"{field}.fold: {source.manifest} has folds {folds}, got {source.fold}")
    if source.fold is None and len(folds) > 1:
        raise UsageError(f"{field}.fold: {source.manifest} has folds {folds}, choose one")
    rows = [row for row in manifest.rows if row.fold is None or source.fold is None or row.fold == source.fold]
    rows.sort(key=lambda row: row.sample_id)
    name = {"train": source.train_split, "test": source.test_split, "val": "val"}[split]
    if val_share > 0 and split != "test":
        if any(row.split == "val" for row in rows):
            raise UsageError(f"data.val_share: {source.manifest} already has a split named val")
        train = [row for row in rows if row.split == source.train_split]
        held = held_out(train, val_share)
        chosen = [row for row in train if (row.sample_id in held) == (split == "val")]
    else:
        chosen = [row for row in rows if row.split == name]
    if not chosen:
        known = ", ".join(sorted({row.split for row in rows}))
        wanted = f"{field}.{split}_split" if split != "val" else f"{field} (val)"
        raise EmptySplitError(f"{source.manifest}: no rows of split {name!r} for {wanted} (splits: {known})")
    return tuple(chosen)


def _check_kinds(rows: Sequence[ManifestRow], source: SourceConfig, field: str) -> None:
    still = source.modality == "image"
    for row in rows:
        if (row.kind == "image") != still:
            raise DataError(
                f"{source.manifest}: sample {row.sample_id!r} is of kind {row.kind}, "
                f"but {field}.modality is {source.modality}"
            )


def held_out(rows: Sequence[ManifestRow], share: float) -> frozenset[str]:
    """Sample ids of the validation part: whole identities in the order of their hash until the share is reached.

    A row without identity stands for itself. The seed has no say, so runs with different seeds select on the same part.
    """
    groups: dict[str, list[str]] = {}
    for row in rows:
        group = f"identity {row.identity}" if row.identity is not None else f"sample {row.sample_id}"
        groups.setdefault(group, []).append(row.sample_id)
    wanted = math.ceil(share * len(rows))
    held: list[str] = []
    for group in sorted(groups, key=lambda name: (stable_key("held-out", name), name)):
        if len(held) >= wanted:
            break
        held.extend(groups[group])
    return frozenset(held)
