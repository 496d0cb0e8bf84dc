"""Evaluation: every sample of a split counts once on any number of ranks, and ranks run in step."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from s4d.config import Config
from s4d.data.evaluation import EvalPlan, build_evaluation
from s4d.data.sampling import FRAME_ORDERS
from s4d.data.sources import load_source

MakeConfig = Callable[..., Config]


@pytest.mark.parametrize("samples", [1, 2, 7, 16, 33, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("per_forward", [1, 3, 8])
def test_plan_covers_each_sample_once_with_equal_forwards(samples: int, world_size: int, per_forward: int) -> None:
    plans = [
        EvalPlan(samples=samples, rank=rank, world_size=world_size, per_forward=per_forward)
        for rank in range(world_size)
    ]
    taken = [plan.forward(number) for plan in plans for number in range(plan.forwards)]
    assert sorted(sample for rows in taken for sample in rows if sample >= 0) == list(range(samples))
    assert {len(rows) for rows in taken} == {plans[0].rows}
    assert plans[0].rows <= per_forward
    padding = sum(sample < 0 for rows in taken for sample in rows)
    assert padding < world_size * plans[0].forwards + world_size


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("source", "views"), [("clips", 6), ("images", 1)])
def test_every_view_of_every_sample_counts_once(
    finetune_config: MakeConfig, source: str, views: int, world_size: int
) -> None:
    config = finetune_config(evaluation={"temporal_views": 3, "spatial_views": 2, "batch_size": 12})
    expected = load_source(config, source, "test")
    seen: Counter[tuple[int, int]] = Counter()
    for rank in range(world_size):
        batches = build_evaluation(config, "test", source, rank, world_size)
        assert len(batches) == len(build_evaluation(config, "test", source, 0, world_size))
        for item in batches:
            for row, weight in enumerate(item.weights.tolist()):
                if weight == 0:
                    continue
                sample = int(item.samples[row])
                seen[sample, int(item.views[row])] += 1
                assert item.sample_ids[row] == expected.rows[sample].sample_id
                assert int(item.labels[row]) == expected.labels[sample]
            head = next(head for head in item.batch.heads if head.head == source)
            assert head.sequences.tolist() == list(range(len(item.labels)))
            real = item.weights > 0
            assert head.targets.argmax(1)[real].tolist() == item.labels[real].tolist()
            assert item.batch.num_sequences == len(item.labels)
            assert item.batch.drop_path_keep is None
    assert seen == {(sample, view): 1 for sample in range(5) for view in range(views)}


def test_views_do_not_depend_on_ranks_and_differ_in_time(finetune_config: MakeConfig) -> None:
    config = finetune_config()

    def pixels(world_size: int) -> dict[tuple[int, int], torch.Tensor]:
        found = {}
        for rank in range(world_size):
            for item in build_evaluation(config, "test", "clips", rank, world_size):
                for row in range(len(item.labels)):
                    if item.weights[row]:
                        found[int(item.samples[row]), int(item.views[row])] = item.batch.groups[0].pixels[row]
        return found

    alone, shared = pixels(1), pixels(3)
    assert alone.keys() == shared.keys()
    assert all(torch.equal(alone[place], shared[place]) for place in alone)
    assert all(not torch.equal(alone[sample, 0], alone[sample, 1]) for sample in range(5))


def test_single_frames_are_held_for_a_whole_clip(finetune_config: MakeConfig) -> None:
    items = list(build_evaluation(finetune_config(), "test", "clips", 0, 1, repeated_frames=3))
    assert torch.cat([item.views for item in items]).tolist() == [0, 1, 2] * 5
    pixels = torch.cat([item.batch.groups[0].pixels for item in items])
    assert (pixels == pixels[:, :1]).all()
    assert not torch.equal(pixels[0], pixels[1])


@pytest.mark.parametrize("source", ["clips", "images"])
def test_other_frame_orders_show_the_same_frames(finetune_config: MakeConfig, source: str) -> None:
    def pixels(order: str, seed: int = 0) -> torch.Tensor:
        config = finetune_config(seed=seed, evaluation={"temporal_views": 2})
        items = build_evaluation(config, "test", source, 0, 1, frame_order=order)
        return torch.cat([item.batch.groups[0].pixels for item in items])

    kept = pixels("kept")
    if source == "images":
        assert all(torch.equal(pixels(order), kept) for order in FRAME_ORDERS)
        return
    assert torch.equal(pixels("reversed"), kept.flip(1))
    assert torch.equal(pixels("frozen"), kept[:, 2:3].expand_as(kept))
    shuffled = pixels("shuffled")
    assert not torch.equal(shuffled, kept) and torch.equal(shuffled, pixels("shuffled", seed=5))
    places = (shuffled[:, :, None] == kept[:, None]).flatten(3).all(3)
    assert places.any(1).all() and places.any(2).all()


def test_nothing_is_mixed_smoothed_or_dropped(finetune_config: MakeConfig) -> None:
    strong = {"erase": 1.0, "color_jitter": 0.5, "randaug_ops": 4, "flip": 1.0}
    mix = {"mixup_alpha": 0.8, "label_smoothing": 0.1}
    augmented = finetune_config(data={"mix": mix, "video": strong}, model={"drop_path": 0.5})
    first = next(iter(build_evaluation(augmented, "test", "clips", 0, 1)))
    second = next(iter(build_evaluation(finetune_config(), "test", "clips", 0, 1)))
    assert torch.equal(first.batch.groups[0].pixels, second.batch.groups[0].pixels)
    assert first.batch.groups[0].mix is None
    assert set(first.batch.heads[0].targets.flatten().tolist()) == {0.0, 1.0}


def test_pretraining_evaluates_masked_batches(pretrain_config: MakeConfig) -> None:
    item = next(iter(build_evaluation(pretrain_config(), "train", "videos", 0, 1)))
    assert item.batch.layout_visible == ((10, 1),)
    assert item.labels.tolist() == [-1] * 10


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_change_nothing_and_unreadable_files_do_not_count(
    finetune_config: MakeConfig, media_tree: Path, tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(media_tree, root)
    (root / "images/i18.jpg").write_bytes(b"")
    table = root / "images.csv"
    table.write_text(table.read_text().replace(str(media_tree), str(root)))
    config = finetune_config(data={"workers": workers, "on_error": "skip"})
    sources = [config.data.sources[0], config.data.sources[1].model_copy(update={"manifest": str(table)})]
    config = config.model_copy(update={"data": config.data.model_copy(update={"sources": sources})})
    batches = build_evaluation(config, "test", "images", 0, 1)
    with caplog.at_level(logging.WARNING):
        weights = torch.cat([item.weights for item in batches])
    assert weights.tolist() == [1, 0, 1, 1, 1]
    assert batches.skipped == 1
    assert "i18.jpg: cannot decode: the file is empty" in caplog.text
    strict = config.model_copy(update={"data": config.data.model_copy(update={"on_error": "error"})})
    batches = build_evaluation(strict, "test", "images", 0, 1)
    assert len(list(batches)) == len(batches), "the forwards of all ranks must match"
    assert batches.refused is not None and "i18.jpg: cannot decode: the file is empty" in batches.refused


def shown(config: Config, source: str, **asked: object) -> dict[tuple[int, int], torch.Tensor]:
    found = {}
    for item in build_evaluation(config, "test", source, 0, 1, **asked):  # type: ignore[arg-type]
        (group,) = item.batch.groups
        assert group.modality == asked.get("shown_as", group.modality)
        assert set(item.batch.modality.tolist()) == {("image", "video").index(group.modality)}
        for row in torch.nonzero(item.weights).flatten().tolist():
            found[int(item.samples[row]), int(item.views[row])] = group.pixels[row]
    return found


def test_frames_of_a_clip_are_shown_as_images(finetune_config: MakeConfig) -> None:
    config = finetune_config()
    images = shown(config, "clips", repeated_frames=3, shown_as="image")
    held = shown(config, "clips", repeated_frames=3)
    assert images.keys() == held.keys() == {(sample, view) for sample in range(5) for view in range(3)}
    assert {len(pixels) for pixels in images.values()} == {1}
    assert all(torch.equal(images[place][0], held[place][0]) for place in images)


def test_a_still_is_shown_for_the_length_of_a_clip(finetune_config: MakeConfig) -> None:
    config = finetune_config()
    clips = shown(config, "images", repeated_frames=1, shown_as="video")
    images = shown(config, "images")
    assert clips.keys() == images.keys()
    for place, pixels in clips.items():
        assert len(pixels) == config.model.num_frames
        assert all(torch.equal(frame, images[place][0]) for frame in pixels)


def test_a_source_shown_in_the_other_modality_says_how_many_frames(finetune_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match="repeated_frames: a source shown as image needs at least 1, got 0"):
        build_evaluation(finetune_config(), "test", "clips", 0, 1, shown_as="image")
