"""Training and evaluation from a cache: the same plan and draws, and the same bytes where nothing was scaled."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.data.cache.mapped import CachedFrames
from s4d.data.draw_sample import DrawKey, ViewSpec, train_draw
from s4d.data.evaluation import EvalBatches
from s4d.data.loader import TrainBatches, build_batches
from s4d.data.media import open_media
from s4d.data.plan import build_plan
from s4d.data.sources import load_source, load_sources
from s4d.data.transform import apply_draw, needed_scale
from s4d.errors import DataError, UsageError

EVERYTHING = {"erase": 0.5, "color_jitter": 0.3, "randaug_ops": 2, "interpolation": "random"}
FULL = {"mix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}, "image": EVERYTHING, "video": EVERYTHING}
# Mean absolute difference in grey levels, of 255: one more resampling of smooth pictures.
SCALED_MEAN, SCALED_LARGEST = 0.6, 8


def cached(config: Config, folders: dict[str, Path], **changes: object) -> Config:
    """The same run with sources read from caches."""
    values = config.model_dump()
    for source in values["data"]["sources"]:
        source["cache"] = str(folders[source["name"]])
    values["data"].update(changes)
    return Config.model_validate(values)


def plain(record: object) -> object:
    """A batch in values that == compares."""
    if isinstance(record, torch.Tensor):
        return record.dtype, tuple(record.shape), record.contiguous().numpy().tobytes()
    if dataclasses.is_dataclass(record):
        return {field.name: plain(getattr(record, field.name)) for field in dataclasses.fields(record)}
    return [plain(item) for item in record] if isinstance(record, tuple | list) else record


def steps_of(config: Config, start: int = 0, rank: int = 0, world_size: int = 1) -> list[list[PackedBatch]]:
    batches = build_batches(config, rank, world_size)
    try:
        return list(batches.steps(start))
    finally:
        batches.close()


@pytest.fixture(scope="session")
def tree_copy(media_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where caches of the session lie."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def folders(media_tree: Path, tree_copy: Path, make_cache) -> dict[str, Path]:
    for name in ("images", "clips", "videos"):
        make_cache(media_tree / f"{name}.csv", tree_copy / name)
    return {name: tree_copy / name for name in ("images", "clips", "videos")}


@pytest.mark.parametrize("task", ["finetune", "pretrain"])
def test_batches_are_equal_to_the_byte(request: pytest.FixtureRequest, folders: dict[str, Path], task: str) -> None:
    make: Callable[..., Config] = request.getfixturevalue(f"{task}_config")
    data = FULL if task == "finetune" else {}
    config = make(data=data)
    assert plain(steps_of(cached(config, folders))) == plain(steps_of(config))


def test_worker_processes_read_the_same(finetune_config: Callable[..., Config], folders: dict[str, Path]) -> None:
    config = cached(finetune_config(engine={"steps": 3}), folders)
    with_workers = cached(config, folders, workers=2)
    assert plain(steps_of(with_workers)) == plain(steps_of(config))


def test_evaluation_is_equal_to_the_byte(finetune_config: Callable[..., Config], folders: dict[str, Path]) -> None:
    config = finetune_config(evaluation={"temporal_views": 2, "spatial_views": 3})
    for name in ("images", "clips"):
        one, other = (
            EvalBatches(run, load_source(run, name, "test"), 0, 1) for run in (config, cached(config, folders))
        )
        assert plain(list(one)) == plain(list(other))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_an_epoch_visits_every_sample_once(
    finetune_config: Callable[..., Config], folders: dict[str, Path], world_size: int
) -> None:
    """36 views of 9 clips in 12 steps: every clip four times, whichever rank reads it; resuming changes nothing."""
    config = cached(finetune_config({"clips": 12, "images": 24}, engine={"steps": 12}), folders)
    seen: Counter[str] = Counter()
    for rank in range(world_size):
        steps = steps_of(config, rank=rank, world_size=world_size)
        seen.update(id for step in steps for batch in step for group in batch.groups for id in group.sample_ids)
        assert plain(steps_of(config, 7, rank, world_size)) == plain(steps[7:])
    assert {id: seen[id] for id in seen if id.startswith("c")} == {f"c{i:02d}": 16 for i in range(9)}
    images = {id: count for id, count in seen.items() if id.startswith("i")}
    assert len(images) == 17
    assert set(images.values()) <= {16, 17}


@pytest.fixture(scope="module")
def large_picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one smooth picture of 300 x 240."""
    folder = tmp_path_factory.mktemp("large")
    small = np.random.default_rng(3).integers(0, 256, (12, 15, 3), dtype=np.uint8)
    Image.fromarray(small).resize((300, 240), Image.Resampling.BICUBIC).save(folder / "a.png")
    (folder / "m.csv").write_text("path,label,split,kind\na.png,,train,image\n")
    return folder


def test_scaled_frames_serve_the_same_crops(
    large_picture: Path, tmp_path: Path, make_cache, finetune_config: Callable[..., Config]
) -> None:
    """Draws are those of the original; pixels differ by one more resampling."""
    from s4d.data.cache.read import open_rows
    from s4d.data.manifest_io import read_manifest

    make_cache(large_picture / "m.csv", tmp_path / "cache")
    manifest = read_manifest(large_picture / "m.csv")
    original = open_media(large_picture / "a.png", "image")
    small = open_rows(tmp_path / "cache", manifest.rows, manifest.fingerprint, "").open(0)
    assert isinstance(small, CachedFrames)
    assert small.record.stored == (240, 192)
    augment = finetune_config().data.image
    spec = ViewSpec(num_frames=1, stride=1, rule="window", size=112)
    for epoch in range(40):
        key = DrawKey(seed=0, epoch=epoch, sample_id="a", view=0)
        draws = [
            train_draw(key, spec, augment, frame_count=media.frame_count, size=media.size)
            for media in (original, small)
        ]
        assert draws[0] == draws[1]
        views = []
        for media, draw in zip((original, small), draws, strict=True):
            out = np.empty(spec.shape, np.uint8)
            apply_draw(media.frames([0], needed_scale(draw, media.size, 112)), draw, out)
            views.append(out.astype(int))
        difference = np.abs(views[0] - views[1])
        assert difference.mean() < SCALED_MEAN
        assert difference.max() <= SCALED_LARGEST


def test_left_out_media_are_skipped_or_named_in_training(
    media_tree: Path, tmp_path: Path, make_cache, finetune_config: Callable[..., Config]
) -> None:
    for i in range(4):
        content = (media_tree / f"images/i{i:02d}.jpg").read_bytes()
        (tmp_path / f"{i}.jpg").write_bytes(content[: -300 if i == 2 else None])
    lines = [f"{i}.jpg,{('calm', 'glad')[i % 2]},train,image\n" for i in range(4)]
    (tmp_path / "m.csv").write_text("path,label,split,kind\n" + "".join(lines))
    make_cache(tmp_path / "m.csv", tmp_path / "cache", skip=True)
    values = finetune_config(engine={"steps": 3}).model_dump()
    values["batch"]["per_step"] = {"images": 4}
    values["data"]["sources"] = [
        {"name": "images", "modality": "image", "manifest": str(tmp_path / "m.csv"), "cache": str(tmp_path / "cache")}
    ]
    with pytest.raises(DataError, match=r"2\.jpg: .*left out of the cache"):
        steps_of(Config.model_validate(values))
    counts = []
    for cache in (str(tmp_path / "cache"), None):
        values["data"].update(on_error="skip")
        values["data"]["sources"][0]["cache"] = cache
        batches: TrainBatches = build_batches(Config.model_validate(values), 0, 1)
        pixels = [plain(step) for step in batches.steps(0)]
        counts.append((batches.counters(), pixels))
    assert counts[0] == counts[1]
    assert counts[0][0]["data/skipped/image"] == 3


@pytest.mark.parametrize(
    ("made", "asked", "problem"),
    [
        ({"short_side": 20}, {}, r"clips\)\.cache: .*cache\.json: recipe: short_side 20 is below model\.image_size 32"),
        ({"order": "lexicographic"}, {}, r"recipe: order lexicographic, but data\.order is natural"),
        ({"frames": "4x4"}, {}, r"frames 4x4 serve .* not window with 4 at 2"),
        ({"frames": "4x2"}, {"frame_sampling": "release"}, r"not release with 4 at 2"),
    ],
)
def test_recipes_that_do_not_serve_a_run(
    media_tree: Path,
    tmp_path: Path,
    make_cache,
    finetune_config: Callable[..., Config],
    made: dict[str, object],
    asked: dict[str, object],
    problem: str,
) -> None:
    make_cache(media_tree / "clips.csv", tmp_path / "clips", **made)
    make_cache(media_tree / "images.csv", tmp_path / "images")
    config = cached(finetune_config(), {name: tmp_path / name for name in ("clips", "images")}, **asked)
    with pytest.raises(DataError, match=problem):
        load_sources(config)


def test_dali_leaves_caches_alone(finetune_config: Callable[..., Config], folders: dict[str, Path]) -> None:
    from s4d.data.dali.drafts import Drafts

    config = cached(finetune_config(), folders)
    with pytest.raises(UsageError, match=r"and data\.sources \(images\)\.cache holds decoded frames"):
        Drafts(config, build_plan(config, world_size=1), 0, on_cpu=True)[0]


def test_cache_of_another_manifest_is_refused(finetune_config: Callable[..., Config], folders: dict[str, Path]) -> None:
    swapped = {"clips": folders["images"], "images": folders["clips"]}
    with pytest.raises(
        DataError, match=r"data\.sources \(images\)\.cache: .*cache\.json: manifest: .*another manifest"
    ):
        load_sources(cached(finetune_config(), swapped))
