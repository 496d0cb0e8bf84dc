"""Damage of a finished cache: what opening finds, and what only reading every byte finds."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from s4d.data.cache.layout import PAGE
from s4d.data.cache.read import open_cache
from s4d.data.cache.verify import verify_cache
from s4d.errors import DataError


@pytest.fixture
def finished(media_tree: Path, tmp_path: Path, make_cache) -> Path:
    make_cache(media_tree / "videos.csv", tmp_path / "cache")
    return tmp_path / "cache"


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.shard"))


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def problems(folder: Path) -> list[str]:
    """What opening or verifying says."""
    try:
        return verify_cache(folder, lambda done, total: None)
    except DataError as error:
        return [str(error)]


def test_sound_cache_has_no_problems(finished: Path) -> None:
    assert len(shards(finished)) > 2
    assert problems(finished) == []


@pytest.mark.parametrize("rounds", [60, pytest.param(3000, marks=pytest.mark.deep)])
def test_every_flipped_bit_is_found(finished: Path, rounds: int) -> None:
    """In a header when the cache is opened, anywhere else when it is verified; the shard is named."""
    rng = random.Random(0)
    for number in range(rounds):
        path = rng.choice(shards(finished))
        in_header = number % 2 == 0
        bit = rng.randrange(PAGE * 8) if in_header else rng.randrange(PAGE * 8, path.stat().st_size * 8)
        flip(path, bit)
        if in_header:
            with pytest.raises(DataError, match=path.name):
                open_cache(finished)
        else:
            open_cache(finished)
            found = problems(finished)
            assert len(found) == 1
            assert found[0].startswith(f"{path}: record ")
            assert "checksum" in found[0]
        flip(path, bit)
    assert problems(finished) == []


def test_cut_and_grown_shards_are_refused_when_opened(finished: Path) -> None:
    path = shards(finished)[1]
    content = path.read_bytes()
    for length in (0, 10, 300, 5000, len(content) - 4096, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=rf"{path.name}: size: "):
            open_cache(finished)
    path.write_bytes(content + b"\0")
    with pytest.raises(DataError, match=rf"{path.name}: size: expected {len(content)} bytes, got {len(content) + 1}"):
        open_cache(finished)


def test_missing_and_swapped_shards_are_refused(finished: Path, tmp_path: Path, media_tree: Path, make_cache) -> None:
    first, second = shards(finished)[:2]
    kept = first.read_bytes()
    shutil.copy(second, first)
    with pytest.raises(DataError, match=rf"{first.name}: number: expected shard 0, got 1"):
        open_cache(finished)
    make_cache(media_tree / "videos.csv", tmp_path / "other", short_side=40)
    shutil.copy(shards(tmp_path / "other")[0], first)
    with pytest.raises(DataError, match=rf"{first.name}: cache id: a shard of another cache"):
        open_cache(finished)
    first.unlink()
    with pytest.raises(DataError, match=rf"{first.name}: cannot read this shard: No such file"):
        open_cache(finished)
    first.write_bytes(kept)
    assert problems(finished) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text[:-40], r"cache\.json: not a readable JSON file"),
        (lambda text: text.replace("s4d-cache", "s4d-cash"), r"cache\.json: format"),
        (lambda text: text.replace('"version": 1', '"version": 9'), r"cache\.json: version: expected 1, got 9"),
        (lambda text: text.replace('"short_side": 192', '"short_side": 160'), r"cache\.json: id"),
        (lambda text: text.replace('"order": "natural"', '"ordner": "natural"'), r"cache\.json: recipe"),
        (lambda text: json.dumps({**json.loads(text), "index_sha256": "0"}), r"index\.parquet: checksum"),
        (lambda text: json.dumps({**json.loads(text), "shards": [1]}), r"cache\.json: shards"),
        (lambda text: json.dumps({**json.loads(text), "shards": "x"}), r"cache\.json: shards"),
    ],
)
def test_damaged_description_is_refused(finished: Path, change: Callable[[str], str], problem: str) -> None:
    text = (finished / "cache.json").read_text()
    (finished / "cache.json").write_text(change(text))
    with pytest.raises(DataError, match=problem):
        open_cache(finished)


@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_damaged_index_is_refused(finished: Path, place: float) -> None:
    content = bytearray((finished / "index.parquet").read_bytes())
    content[int(place * len(content)) if place > 0 else int(place)] ^= 4
    (finished / "index.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"index\.parquet: checksum: the index is damaged"):
        open_cache(finished)
