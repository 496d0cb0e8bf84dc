"""VoxCeleb2: unlabelled videos in `{dev,test}/mp4/<identity>/<source video>/<clip>.mp4`."""

from __future__ import annotations

from pathlib import Path

from s4d.data.manifest import ManifestRow
from s4d.data.media import VIDEO_SUFFIXES
from s4d.datasets.listing import refuse_fold
from s4d.errors import DataError

SPLITS = {"dev": "train", "test": "test"}


def prepare(root: Path, *, fold: int | None) -> list[ManifestRow]:
    """One row per clip; `dev` becomes the train split. DataError for a tree without clips."""
    refuse_fold("voxceleb2", fold)
    rows = []
    for folder, split in SPLITS.items():
        base = root / folder / "mp4"
        for path in sorted(base.glob("id*/*/*")):
            if path.suffix.lower() in VIDEO_SUFFIXES:
                inside = path.relative_to(base)
                rows.append(
                    ManifestRow(
                        sample_id=inside.with_suffix("").as_posix(),
                        path=path.relative_to(root).as_posix(),
                        kind="video",
                        dataset="voxceleb2",
                        split=split,
                        identity=inside.parts[0],
                    )
                )
    if not rows:
        raise DataError(f"{root}: no clips; expected dev/mp4/idNNNNN/<video>/NNNNN.mp4 below it")
    return rows
