"""VoxCeleb2: unlabelled videos in `{dev,test}/mp4/<identity>/<source video>/<clip>.mp4`."""

from __future__ import annotations

import logging
from pathlib import Path

from s4d.data.manifest import ManifestRow
from s4d.data.media import VIDEO_SUFFIXES
from s4d.datasets.request import Request
from s4d.datasets.tree import MediaFolder
from s4d.errors import DataError

logger = logging.getLogger(__name__)

SPLITS = {"dev": "train", "test": "test"}


def prepare(root: Path, request: Request) -> list[ManifestRow]:
    """One row per clip; `dev` becomes the train split. DataError for a tree without clips."""
    request.refuse("voxceleb2", "fold", "media")
    rows = []
    for folder, split in SPLITS.items():
        base = f"{folder}/mp4"
        if not (root / base).is_dir():
            # The test part is not needed for pre-training; without dev, something is amiss.
            logger.log(
                logging.WARNING if folder == "dev" else logging.INFO,
                "%s: no folder %s, so no %s split",
                root,
                base,
                split,
            )
            continue
        media = MediaFolder(root / base)
        for identity in media.subfolders():
            for video in media.subfolders(identity):
                inside = f"{identity}/{video}"
                for name in media.files(VIDEO_SUFFIXES, inside):
                    rows.append(
                        ManifestRow(
                            sample_id=f"{inside}/{Path(name).stem}",
                            path=f"{base}/{inside}/{name}",
                            kind="video",
                            dataset="voxceleb2",
                            split=split,
                            identity=identity,
                        )
                    )
                media.forget(inside)
            media.forget(identity)
    if not rows:
        raise DataError(f"{root}: no clips; expected dev/mp4/idNNNNN/<video>/NNNNN.mp4 below it")
    return rows
