"""Which crop recipe a model has seen, and one line where it is about to see another.

A checkpoint's `config.json` has under `crop` the recipe of each source's manifest; empty where this project did not cut
the faces out. A model still runs on other crops, but worse, and nothing else would tell.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from s4d.config import Config
from s4d.data.manifest_io import read_manifest
from s4d.models.folder import CONFIG_FILE, find_model, read_config

logger = logging.getLogger(__name__)


def crops_of(config: Config) -> dict[str, str]:
    """The crop recipe of each source of a run, as its manifest has it."""
    return {source.name: read_manifest(source.manifest).crop for source in config.data.sources}


def stored_crops(folder: Path) -> dict[str, str]:
    """The crop recipes in a model folder's `config.json`; empty where it knows none, as in imported weights."""
    if not (folder / CONFIG_FILE).is_file():
        return {}
    crops = read_config(folder).get("crop")
    return {str(name): str(crop) for name, crop in crops.items()} if isinstance(crops, dict) else {}


def warn_of_changed_crops(folder: Path, crops: Mapping[str, str]) -> None:
    """A line for each source whose crops are not those that the model in `folder` was trained on."""
    for name, before in stored_crops(folder).items():
        if name in crops and crops[name] != before:
            logger.warning(
                "source %s: the model was trained on crops %s, its manifest now has %s",
                name,
                before or "of unknown recipe",
                crops[name] or "of unknown recipe",
            )


def warn_of_other_crops(init_from: Path, crops: Mapping[str, str]) -> None:
    """A line for each source whose recipe is none of those that the initial weights were trained on, if both are known.

    A model that cannot be found is left for the loading of its weights to name.
    """
    if not init_from.exists():
        return
    before = sorted({crop for crop in stored_crops(find_model(init_from)).values() if crop})
    for name, crop in crops.items():
        if before and crop and crop not in before:
            logger.warning(
                "source %s: crops are %s, the weights of model.init_from were trained on %s",
                name,
                crop,
                " and ".join(before),
            )
