"""The cache of a configured source: opened, and refused where it cannot serve what the run asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s4d.config import Config
from s4d.config_data import SourceConfig
from s4d.data.cache.index import DONE, read_index
from s4d.data.cache.read import CachedRows, open_rows
from s4d.data.manifest import ManifestRow
from s4d.errors import DataError


def select_cache(
    config: Config, source: SourceConfig, rows: Sequence[ManifestRow], fingerprint: str
) -> CachedRows | None:
    """Where the rows of a source lie in its cache, None for one without; DataError names file and field."""
    if source.cache is None:
        return None
    folder = Path(source.cache)
    origin = f"data.sources ({source.name}).cache"
    cached = open_rows(folder, rows, fingerprint, origin)
    recipe, path = read_index(folder).recipe, folder / DONE
    if recipe.short_side < config.model.image_size:
        raise DataError(
            f"{origin}: {path}: recipe: short_side {recipe.short_side} is below model.image_size "
            f"{config.model.image_size}"
        )
    if recipe.order != config.data.order and any(row.kind == "frames" for row in rows):
        raise DataError(f"{origin}: {path}: recipe: order {recipe.order}, but data.order is {config.data.order}")
    if recipe.window is not None and source.modality == "video":
        asked = (config.model.num_frames, source.stride)
        if config.data.frame_sampling != "window" or recipe.window != asked:
            raise DataError(
                f"{origin}: {path}: recipe: frames {recipe.frames} serve data.frame_sampling window with "
                f"{recipe.window[0]} frames at stride {recipe.window[1]}, not {config.data.frame_sampling} with "
                f"{asked[0]} at {asked[1]}"
            )
    return cached
