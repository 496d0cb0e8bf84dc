"""Caches as they are made: what is stored where, what is refused, what is left out."""

from __future__ import annotations

import fcntl
import mmap
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from s4d.data.cache.index import read_index
from s4d.data.cache.layout import PAGE, Medium, Probe, aligned_length, data_start, place_records
from s4d.data.cache.mapped import MappedShard
from s4d.data.cache.read import open_cache, open_rows, record_of
from s4d.data.cache.recipe import CacheRecipe, cache_id
from s4d.data.manifest_io import read_manifest
from s4d.data.media import open_media
from s4d.errors import DataError, UsageError


def test_layout_is_dense_aligned_and_in_order() -> None:
    rng = np.random.default_rng(0)
    probes = [Probe(stamp="", frame_count=int(n), size=(50 + int(n), 40)) for n in rng.integers(1, 40, 60)]
    probes[7] = Probe(stamp="", problem="bad")
    layout = place_records(probes, CacheRecipe(short_side=32), 1 << 18)
    assert [number for group in layout.shards for number in group] == list(range(60))
    for group, size in zip(layout.shards, layout.sizes, strict=True):
        end = data_start(len(group))
        for place, number in enumerate(group):
            record = layout.records[number]
            assert (record.place, record.offset, record.offset % PAGE) == (place, end, 0)
            assert record.pitch % 64 == 0
            assert record.pitch >= record.stored[0] * record.stored[1] * 3
            end += aligned_length(record)
        assert size == end
        assert len(group) == 1 or size <= (1 << 18) + data_start(len(group))
    assert layout.records[7].length == 0


def test_short_side_is_exact_and_never_scaled_up() -> None:
    recipe = CacheRecipe(short_side=192)
    assert recipe.stored_size(1920, 1080) == (341, 192)
    assert recipe.stored_size(301, 500) == (192, 319)
    assert recipe.stored_size(100, 180) == (100, 180)


def test_thinned_clips_keep_what_a_window_needs() -> None:
    recipe = CacheRecipe(frames="16x4")
    assert recipe.step(60) == 1  # too short for 16 frames at stride 4: any frame may be asked for
    assert recipe.step(61) == 4
    assert CacheRecipe().step(1000) == 1


@pytest.mark.parametrize("field", [{"frames": "16"}, {"frames": "0x4"}, {"short_side": 0}, {"order": "random"}])
def test_recipe_refuses_nonsense(field: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(field)).replace("_", " ")):
        CacheRecipe(**field)  # type: ignore[arg-type]


def test_id_depends_on_manifest_and_recipe() -> None:
    ids = {
        cache_id(fingerprint, recipe)
        for fingerprint in ("a", "b")
        for recipe in (
            CacheRecipe(),
            CacheRecipe(short_side=1),
            CacheRecipe(frames="4x2"),
            CacheRecipe(order="natural"),
        )
    }
    assert len(ids) == 6


@pytest.mark.parametrize("name", ["images", "clips", "videos"])
def test_small_media_are_stored_to_the_byte(media_tree: Path, tmp_path: Path, make_cache, name: str) -> None:
    report = make_cache(media_tree / f"{name}.csv", tmp_path / "cache")
    manifest = read_manifest(media_tree / f"{name}.csv")
    rows = open_rows(tmp_path / "cache", manifest.rows, manifest.fingerprint, "")
    frames = 0
    for number, row in enumerate(manifest.rows):
        original, cached = open_media(media_tree / row.path, row.kind), rows.open(number)
        assert (cached.frame_count, cached.size) == (original.frame_count, original.size)
        indices = range(original.frame_count)
        frames += len(indices)
        wanted, found = original.frames(indices), cached.frames(indices)
        assert all(np.array_equal(wanted[index], found[index]) for index in indices)
        assert not any(found[index].flags.writeable or found[index].flags.owndata for index in indices)
    assert (report.media, report.frames, report.left_out) == (len(manifest.rows), frames, ())
    assert report.shards == len(list((tmp_path / "cache").glob("*.shard")))
    assert report.size == sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.shard"))


def test_processes_write_the_same_bytes(media_tree: Path, tmp_path: Path, make_cache, content_of) -> None:
    make_cache(media_tree / "clips.csv", tmp_path / "one")
    make_cache(media_tree / "clips.csv", tmp_path / "two", workers=2)
    assert content_of(tmp_path / "one") == content_of(tmp_path / "two")


def test_frames_are_scaled_down_and_keep_their_aspect(tmp_path: Path, make_cache) -> None:
    gradient = np.linspace(0, 255, 120, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(gradient[None, :, None], (80, 120, 3)).copy()).save(tmp_path / "wide.png")
    (tmp_path / "m.csv").write_text("path,label,split,kind\nwide.png,,train,image\n")
    make_cache(tmp_path / "m.csv", tmp_path / "cache", short_side=40)
    manifest = read_manifest(tmp_path / "m.csv")
    cached = open_rows(tmp_path / "cache", manifest.rows, manifest.fingerprint, "").open(0)
    assert cached.size == (120, 80)
    frame = cached.frames([0])[0]
    assert frame.shape == (40, 60, 3)
    assert np.abs(frame[20, :, 0].astype(int) - gradient.reshape(60, 2).mean(1)).max() <= 2


def test_frames_of_another_size_than_the_first_fit_the_record(tmp_path: Path, make_cache) -> None:
    (tmp_path / "clip").mkdir()
    for number, size in enumerate([(30, 20), (60, 40), (15, 10)]):
        Image.new("RGB", size, (10 * number, 0, 0)).save(tmp_path / f"clip/{number}.png")
    (tmp_path / "m.csv").write_text("path,label,split,kind\nclip,,train,frames\n")
    make_cache(tmp_path / "m.csv", tmp_path / "cache")
    manifest = read_manifest(tmp_path / "m.csv")
    frames = open_rows(tmp_path / "cache", manifest.rows, manifest.fingerprint, "").open(0).frames([0, 1, 2])
    assert [(frame.shape, frame[5, 5, 0]) for frame in frames.values()] == [((20, 30, 3), 10 * i) for i in range(3)]


def test_thinned_clip_serves_the_frame_before(media_tree: Path, tmp_path: Path, make_cache) -> None:
    make_cache(media_tree / "videos.csv", tmp_path / "cache", frames="3x4")
    manifest = read_manifest(media_tree / "videos.csv")
    rows = open_rows(tmp_path / "cache", manifest.rows, manifest.fingerprint, "")
    cached, original = rows.open(0), open_media(media_tree / manifest.rows[0].path, "video")
    assert (cached.frame_count, cached.record.kept) == (10, 3)
    wanted = original.frames([0, 4, 8])
    found = cached.frames(range(10))
    assert all(np.array_equal(found[index], wanted[index // 4 * 4]) for index in range(10))


def test_folds_share_their_media(media_tree: Path, tmp_path: Path, make_cache) -> None:
    lines = [f"images/i{i:02d}.jpg,calm,train,image,{fold}" for fold in (1, 2) for i in range(3)]
    (tmp_path / "m.csv").write_text("\n".join([f"# root: {media_tree}", "path,label,split,kind,fold", *lines]) + "\n")
    assert make_cache(tmp_path / "m.csv", tmp_path / "cache").media == 3


def test_second_call_does_nothing(media_tree: Path, tmp_path: Path, make_cache, content_of) -> None:
    first = make_cache(media_tree / "images.csv", tmp_path / "cache")
    before = content_of(tmp_path / "cache")
    again = make_cache(media_tree / "images.csv", tmp_path / "cache")
    assert (first.already_done, again.already_done) == (0, 22)
    assert content_of(tmp_path / "cache") == before


def test_folder_of_another_cache_is_refused(media_tree: Path, tmp_path: Path, make_cache) -> None:
    make_cache(media_tree / "images.csv", tmp_path / "cache")
    with pytest.raises(DataError, match=r"cache\.json: recipe: .*short_side.*192"):
        make_cache(media_tree / "images.csv", tmp_path / "cache", short_side=40)
    with pytest.raises(DataError, match=r"cache\.json: manifest: .* another content"):
        make_cache(media_tree / "clips.csv", tmp_path / "cache")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/notes.txt").touch()
    with pytest.raises(DataError, match="foreign: is not empty and holds no cache"):
        make_cache(media_tree / "images.csv", tmp_path / "foreign")
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["notes.txt"]


def test_unreadable_media(media_tree: Path, tmp_path: Path, make_cache) -> None:
    (tmp_path / "good.jpg").write_bytes((media_tree / "images/i00.jpg").read_bytes())
    (tmp_path / "cut.jpg").write_bytes((media_tree / "images/i01.jpg").read_bytes()[:-300])
    (tmp_path / "empty.jpg").touch()
    names = ("cut.jpg", "good.jpg", "empty.jpg", "missing.jpg")
    lines = "".join(f"{name},calm,train,image\n" for name in names)
    (tmp_path / "m.csv").write_text("path,label,split,kind\n" + lines)
    with pytest.raises(DataError, match=r"empty\.jpg: .*empty.*2 unreadable; --on-error skip"):
        make_cache(tmp_path / "m.csv", tmp_path / "cache")
    report = make_cache(tmp_path / "m.csv", tmp_path / "cache", skip=True)
    named = [re.search(r"(\w+)\.jpg", line).group(1) for line in report.left_out]  # type: ignore[union-attr]
    assert (named, report.media, report.frames) == (["cut", "empty", "missing"], 4, 1)
    manifest = read_manifest(tmp_path / "m.csv")
    rows = open_rows(tmp_path / "cache", manifest.rows, manifest.fingerprint, "")
    assert rows.open(1).frames([0])[0].shape == (48, 48, 3)
    for number in (0, 2, 3):
        with pytest.raises(DataError, match=rf"{names[number]}: .*left out of the cache"):
            rows.open(number)


def test_mended_file_is_taken_by_the_next_call(media_tree: Path, tmp_path: Path, make_cache) -> None:
    content = (media_tree / "images/i01.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content)
    (tmp_path / "b.jpg").write_bytes(content[:-300])
    (tmp_path / "m.csv").write_text("path,label,split,kind\na.jpg,,train,image\nb.jpg,,train,image\n")
    with pytest.raises(DataError, match=r"b\.jpg"):
        make_cache(tmp_path / "m.csv", tmp_path / "cache")
    with pytest.raises(DataError, match="unfinished cache"):
        open_cache(tmp_path / "cache")
    (tmp_path / "b.jpg").write_bytes(content)
    report = make_cache(tmp_path / "m.csv", tmp_path / "cache")
    assert (report.already_done, report.left_out) == (1, ())


def test_full_disk_is_refused_before_anything_is_written(
    media_tree: Path, tmp_path: Path, make_cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=10, f_frsize=4096))
    with pytest.raises(DataError, match=r"cache: needs 0\.\d+ GiB more, the disk has 0\.0+ GiB free"):
        make_cache(media_tree / "clips.csv", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.shard*"))


def test_names_of_shards_are_on_the_disk(
    media_tree: Path, tmp_path: Path, make_cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that is done has no journals to make a lost shard again from."""
    flushed: list[tuple[Path, set[str]]] = []

    def note(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        flushed.append((path, set(os.listdir(path)) if path.is_dir() else set()))

    monkeypatch.setattr(os, "fsync", note)
    make_cache(media_tree / "images.csv", tmp_path / "cache")
    shards = {path.name for path in (tmp_path / "cache").glob("*.shard")}
    assert shards and any(path == tmp_path / "cache" and shards <= names for path, names in flushed)


def test_second_writer_is_refused(media_tree: Path, tmp_path: Path, make_cache) -> None:
    (tmp_path / "cache").mkdir()
    handle = os.open(tmp_path / "cache", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is writing this cache"):
            make_cache(media_tree / "images.csv", tmp_path / "cache")
    finally:
        os.close(handle)
    assert make_cache(media_tree / "images.csv", tmp_path / "cache").media == 22


def test_index_names_every_medium(media_tree: Path, tmp_path: Path, make_cache) -> None:
    make_cache(media_tree / "clips.csv", tmp_path / "cache")
    index = read_index(tmp_path / "cache")
    assert list(index.media) == [Medium(f"clips/c{i:02d}", "frames") for i in range(14)]
    assert [record_of(index, number).kept for number in range(14)] == list(range(4, 18))


def test_frames_that_are_not_in_memory_are_asked_for(
    media_tree: Path, tmp_path: Path, make_cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking is a hint that must name whole pages inside the map."""
    asked = []

    def madvise(option: int, start: int, length: int) -> None:
        asked.append((option, start % mmap.PAGESIZE, start, start + length))

    make_cache(media_tree / "clips.csv", tmp_path / "cache")
    manifest = read_manifest(media_tree / "clips.csv")
    sample = open_rows(tmp_path / "cache", manifest.rows, manifest.fingerprint, "").open(3)
    shard = sample.shard
    for in_memory in (True, False):
        monkeypatch.setattr(MappedShard, "_is_in_memory", lambda *place, answer=in_memory: answer)
        monkeypatch.setattr(shard, "memory", SimpleNamespace(madvise=madvise))
        shard.expect([sample.record.offset + index * sample.record.pitch for index in (1, 3)], 48 * 48 * 3)
        monkeypatch.undo()
        assert len(asked) == (0 if in_memory else 2)
    for place, (option, rest, start, end) in zip((1, 3), asked, strict=True):
        first = sample.record.offset + place * sample.record.pitch
        assert (option, rest, end) == (mmap.MADV_WILLNEED, 0, first + 48 * 48 * 3)
        assert first - mmap.PAGESIZE < start <= first
    assert len(sample.frames(range(7))) == 7
