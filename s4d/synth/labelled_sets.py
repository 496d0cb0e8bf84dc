"""Generated faces together with the manifests that training reads."""

from __future__ import annotations

import shutil
from pathlib import Path

from s4d.data.manifest_io import prepare_manifest
from s4d.synth.generate import synthesize

# The fold whose test part shares its people with the image test set, and is in no pre-training clip.
FOLD = 1
FOLDS = {"voxceleb2": None, "affectnet": None, "dfew": FOLD}


def make_sets(
    folder: Path, *, clips: int, images: int, identities: int, seed: int = 0, pretrain_clips: int | None = None
) -> None:
    """Fill `folder` with the three sets and `<set>.parquet` for each; does nothing where that was finished before."""
    last = folder / f"{list(FOLDS)[-1]}.parquet"
    if last.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    synthesize(folder, clips=clips, images=images, identities=identities, seed=seed, pretrain_clips=pretrain_clips)
    for name, fold in FOLDS.items():
        prepare_manifest(name, folder / name, folder / f"{name}.parquet", fold)
