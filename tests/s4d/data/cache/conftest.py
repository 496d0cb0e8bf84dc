"""Caches of the tiny media tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from s4d.data.cache.recipe import CacheRecipe
from s4d.data.cache.write import CacheOptions, CacheReport, write_cache

WriteCache = Callable[..., CacheReport]


@pytest.fixture
def make_cache() -> WriteCache:
    """Write a cache in shards of 64 KiB in this process; keyword arguments go to the recipe."""

    def make(manifest: Path, folder: Path, *, skip: bool = False, workers: int = 0, **recipe: object) -> CacheReport:
        options = CacheOptions(shard_bytes=1 << 16, workers=workers, skip_unreadable=skip)
        return write_cache(manifest, folder, CacheRecipe(**recipe), options, lambda *told: None)  # type: ignore[arg-type]

    return make


@pytest.fixture
def content_of() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a folder by name."""
    return lambda folder: {path.name: path.read_bytes() for path in folder.iterdir()}
