"""How much is generated for a size of the experiment, and the crops, manifests and caches that its runs read."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from s4d.atomic_files import write_atomically
from s4d.data.cache.recipe import CacheRecipe
from s4d.data.cache.write import CacheOptions, write_cache
from s4d.data.counter import stable_key
from s4d.data.crop.finders import open_annotations
from s4d.data.crop.recipe import build_recipe
from s4d.data.crop.run import crop_manifest
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import fingerprint, read_manifest, write_manifest
from s4d.errors import DataError
from s4d.json_text import to_json
from s4d.science.arms import ARMS, DYNAMIC, STATIC, UNLABELLED
from s4d.shipped_configs import REHEARSAL_MODEL, SHIPPED
from s4d.synth.labelled_sets import make_sets

CONFIGS = SHIPPED / "science"
SHARES = tuple(sorted({arm.stills for arm in ARMS if STATIC in arm.sources}))
# Level eyes in one place, as sets of faces are handed out. The crop of a clip stands still: how the head moves is part
# of an expression.
CROP = build_recipe("eyes", size=72, margin=0.0, per="clip")


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Generated samples of all splits (a fifth of the people are the test split) and how many clips keep their label.

    `overrides` are added to both configurations, which lie in configs/science/ under the name `configs`, and
    `finetune_overrides` to the second.
    """

    name: str
    configs: str
    clips: int
    labelled_clips: int
    images: int
    unlabelled_clips: int
    identities: int
    overrides: tuple[str, ...] = ()
    finetune_overrides: tuple[str, ...] = ()

    @property
    def pretrain(self) -> Path:
        """The pre-training configuration."""
        return CONFIGS / f"{self.configs}_pretrain.yaml"

    @property
    def finetune(self) -> Path:
        """The fine-tuning configuration."""
        return CONFIGS / f"{self.configs}_finetune.yaml"

    def amounts(self) -> dict[str, Any]:
        """What the data are made from; results of other data are not comparable."""
        return {key: value for key, value in asdict(self).items() if isinstance(value, int)}


SIZES = {
    size.name: size
    for size in (
        Size(
            name="cpu",
            configs="cpu",
            clips=3500,
            labelled_clips=1400,
            images=10500,
            unlabelled_clips=1200,
            identities=250,
        ),
        Size(
            name="gpu",
            configs="gpu",
            clips=3500,
            labelled_clips=2800,
            images=17500,
            unlabelled_clips=4000,
            identities=500,
        ),
        # For rehearsals: everything runs, nothing is learned.
        Size(
            name="tiny",
            configs="cpu",
            clips=70,
            labelled_clips=28,
            images=140,
            unlabelled_clips=10,
            identities=10,
            overrides=(
                *REHEARSAL_MODEL,
                "engine.steps=8",
                "engine.save_every=4",
                "engine.log_every=1",
            ),
            finetune_overrides=("engine.eval_every=4",),
        ),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Media:
    """Manifest and cache of one set."""

    manifest: Path
    cache: Path


class Data:
    """The generated sets of a size below a folder; `make` writes what is missing."""

    def __init__(self, size: Size, folder: Path) -> None:
        self.size, self.folder = size, folder

    def make(self) -> None:
        """Draw, crop, list and decode all sets; a second call does only what an earlier one left.

        DataError for a folder that was filled with other amounts.
        """
        size = self.size
        self._take()
        faces = self.folder / "faces"
        make_sets(
            faces,
            clips=size.clips,
            images=size.images,
            identities=size.identities,
            pretrain_clips=size.unlabelled_clips,
        )
        self._list(self._crop(UNLABELLED), self.media(UNLABELLED), None)
        self._list(self._crop(DYNAMIC), self.media(DYNAMIC), size.labelled_clips)
        cropped = self._crop(STATIC)
        stills = sum(row.split == "train" for row in read_manifest(cropped).rows)
        for share in SHARES:
            self._list(cropped, self.media(STATIC, share), round(share * stills))

    def _take(self) -> None:
        """Note in the folder what it is for; DataError if it is for something else."""
        path, amounts = self.folder / "amounts.json", to_json(self.size.amounts())
        if not path.exists():
            write_atomically(path, amounts)
        elif path.read_text(encoding="utf-8") != amounts:
            raise DataError(f"{path}: these data are of other amounts; remove {self.folder} and the runs beside it")

    def media(self, source: str, stills: float = 1.0) -> Media:
        """The files of a set, of the stills those with a share of them."""
        name = f"{source}-{100 * stills:g}" if source == STATIC else source
        return Media(manifest=self.folder / f"{name}.parquet", cache=self.folder / f"{name}.cache")

    def count(self, source: str, stills: float = 1.0) -> int:
        """Training samples of a set."""
        return sum(row.split == "train" for row in read_manifest(self.media(source, stills).manifest).rows)

    def fingerprint(self, source: str, stills: float = 1.0) -> str:
        """Content of a set's manifest in short."""
        return read_manifest(self.media(source, stills).manifest).fingerprint[:16]

    def _crop(self, source: str) -> Path:
        """Cut the faces of a set out; the manifest of the crops."""
        faces, out = self.folder / "faces", self.folder / "crops" / source
        manifest = out / "manifest.parquet"
        if not manifest.exists():
            where = open_annotations(faces / source / "faces.csv")
            crop_manifest(faces / f"{source}.parquet", out, CROP, where, workers=os.cpu_count() or 1)
        return manifest

    def _list(self, whole: Path, media: Media, kept: int | None) -> None:
        if not media.manifest.exists():
            manifest = read_manifest(whole)
            rows = manifest.rows if kept is None else reduced(manifest.rows, manifest.classes, kept)
            write_manifest(
                replace(manifest, rows=rows, fingerprint=fingerprint(rows, manifest.classes)), media.manifest
            )
        write_cache(media.manifest, media.cache, CacheRecipe(), CacheOptions(workers=1), _silent)


def _silent(stage: str, done: int, total: int, size: int) -> None:
    """Decoding takes seconds here."""


def reduced(rows: Sequence[ManifestRow], classes: Sequence[str], kept: int) -> tuple[ManifestRow, ...]:
    """All rows but those of the training split beyond `kept`, of which every class has its share.

    The samples of a smaller number are among those of a larger one.
    """
    ranked = [_ranked(rows, label) for label in classes]
    rounds = itertools.zip_longest(*ranked)
    chosen = [row for each in rounds for row in each if row is not None]
    ids = {row.sample_id for row in chosen[:kept]}
    return tuple(row for row in rows if row.split != "train" or row.sample_id in ids)


def _ranked(rows: Sequence[ManifestRow], label: str) -> list[ManifestRow]:
    own = [row for row in rows if row.split == "train" and row.label == label]
    return sorted(own, key=lambda row: (stable_key("science", row.sample_id), row.sample_id))
