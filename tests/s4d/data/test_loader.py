"""Training batches: what a packed batch holds, equal to the byte for any number of workers, resumable at any step."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.data.loader import build_batches
from s4d.errors import DataError

MakeConfig = Callable[..., Config]
MIX = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.1}
EVERYTHING = {"erase": 0.5, "color_jitter": 0.3, "randaug_ops": 2, "interpolation": "random"}
FULL = {"data": {"mix": MIX, "image": EVERYTHING, "video": EVERYTHING}, "model": {"drop_path": 0.3}}


def leaves(record: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Every tensor and value of a record with its dotted name."""
    if dataclasses.is_dataclass(record):
        for field in dataclasses.fields(record):
            yield from leaves(getattr(record, field.name), f"{name}.{field.name}")
    elif isinstance(record, tuple):
        for index, item in enumerate(record):
            yield from leaves(item, f"{name}.{index}")
    else:
        yield name, record


def assert_equal(first: PackedBatch, second: PackedBatch) -> None:
    pairs = list(zip(leaves(first), leaves(second), strict=True))
    for (name, a), (other, b) in pairs:
        assert name == other
        if isinstance(a, Tensor):
            assert isinstance(b, Tensor)
            assert a.dtype == b.dtype, name
            assert torch.equal(a, b), name
        else:
            assert a == b, name


def batches_of(config: Config, start: int = 0, rank: int = 0, world_size: int = 1) -> list[list[PackedBatch]]:
    batches = build_batches(config, rank, world_size)
    try:
        return list(batches.steps(start))
    finally:
        batches.close()


def check_invariants(batch: PackedBatch, tokens: dict[str, int], hidden: dict[str, int]) -> None:
    lengths = [tokens[group.modality] for group in batch.groups for _ in group.sample_ids]
    masked = [hidden[group.modality] for group in batch.groups for _ in group.sample_ids]
    assert [group.modality for group in batch.groups] == sorted(group.modality for group in batch.groups)
    assert batch.cu_seqlens.tolist() == np.concatenate(([0], np.cumsum(lengths))).tolist()
    seen = np.array(lengths) - np.array(masked)
    assert batch.cu_seqlens_visible.tolist() == np.concatenate(([0], np.cumsum(seen))).tolist()
    assert [n for count, n in batch.layout for _ in range(count)] == lengths
    assert [n for count, n in batch.layout_visible for _ in range(count)] == seen.tolist()
    assert (batch.max_seqlen, batch.max_seqlen_visible) == (max(lengths), seen.max())
    assert batch.positions.tolist() == [place for length in lengths for place in range(length)]
    both = torch.cat((batch.visible_indices, batch.masked_indices))
    assert sorted(both.tolist()) == list(range(sum(lengths)))
    for name, counts in (("visible_indices", seen), ("masked_indices", masked)):
        indices = getattr(batch, name)
        assert indices.tolist() == sorted(indices.tolist())
        sequence = np.searchsorted(batch.cu_seqlens.numpy(), indices.numpy(), side="right") - 1
        assert np.bincount(sequence, minlength=len(lengths)).tolist() == list(counts)
    assert (batch.cu_seqlens.dtype, batch.visible_indices.dtype) == (torch.int32, torch.int64)


def test_pretraining_batches_have_exact_masks(pretrain_config: MakeConfig) -> None:
    steps = batches_of(pretrain_config())
    assert len(steps) == 7
    for [batch] in steps:
        assert [tuple(group.pixels.shape) for group in batch.groups] == [(4, 1, 32, 32, 3), (4, 4, 32, 32, 3)]
        check_invariants(batch, {"image": 4, "video": 8}, {"image": 3, "video": 7})
        assert batch.modality.tolist() == [0] * 4 + [1] * 4
        assert (batch.heads, batch.drop_path_keep) == ((), None)
        assert batch.step_samples == {"image": 4, "video": 4}
        assert all(group.mix is None and group.erase is None for group in batch.groups)
        ids = batch.groups[1].sample_ids
        assert ids[::2] == ids[1::2]
        assert len(set(batch.noise_keys.tolist())) == 8


def test_finetuning_batches_hold_targets_and_everything_drawn(finetune_config: MakeConfig) -> None:
    mixed, cut = 0, 0
    for [batch] in batches_of(finetune_config(**FULL)):
        check_invariants(batch, {"image": 4, "video": 8}, {"image": 0, "video": 0})
        assert [(head.head, head.modality) for head in batch.heads] == [("clips", "video"), ("images", "image")]
        assert batch.heads[1].sequences.tolist() == list(range(8))
        assert batch.heads[0].sequences.tolist() == list(range(8, 12))
        for head in batch.heads:
            assert head.targets.shape[1] == 3
            # float32 sums of three shares.
            assert (head.targets.sum(1) - 1).abs().max() < 1e-6
            assert head.targets.min() >= 0.1 / 3 - 1e-6
        for group, head in zip(batch.groups, batch.heads[::-1], strict=True):
            assert group.mix is not None
            partner = group.mix.partner
            assert partner.tolist() == (torch.arange(len(partner)) ^ 1).tolist()
            assert torch.equal(group.mix.lam, group.mix.lam[partner])
            own, other = head.targets, head.targets[partner]
            # What both rows of a pair give away and take is the same.
            assert torch.allclose((own + other).sum(1), torch.full((len(own),), 2.0))
            mixed += int((group.mix.lam < 1).sum())
            cut += 0 if group.mix.box is None else int((group.mix.box[:, 2] > group.mix.box[:, 0]).sum())
        keep = batch.drop_path_keep
        assert keep is not None and keep.shape == (12, 12)
        rates = torch.linspace(0, 0.3, 12, dtype=torch.float64)
        expected = torch.where(keep == 0, torch.zeros(()), (1 / (1 - rates)).float()[:, None])
        assert torch.allclose(keep, expected)
        assert (keep[0] == 1).all()
    assert mixed > 0
    assert cut > 0


def test_targets_follow_the_sample_ids(finetune_config: MakeConfig) -> None:
    for [batch] in batches_of(finetune_config()):
        for group, head in zip(batch.groups, batch.heads[::-1], strict=True):
            numbers = [int(sample_id[1:]) for sample_id in group.sample_ids]
            assert head.targets.argmax(1).tolist() == [number % 3 for number in numbers]
            assert head.targets.max() == 1.0


def test_drop_path_skips_at_its_rate(finetune_config: MakeConfig) -> None:
    config = finetune_config({"clips": 2, "images": 32}, model={"drop_path": 0.5}, engine={"steps": 20})
    keeps = torch.cat([batch.drop_path_keep for [batch] in batches_of(config)], dim=1)
    dropped = (keeps == 0).double().mean(1)
    # 680 draws a block: standard deviation at most 0.02.
    assert (dropped - torch.linspace(0, 0.5, 12, dtype=torch.float64)).abs().max() < 0.1


def test_one_draw_for_the_whole_step_in_batch_scope(finetune_config: MakeConfig) -> None:
    config = finetune_config(data={"mix": {**MIX, "scope": "batch"}}, batch={"accumulation": 2})
    drawn = set()
    for first, second in batches_of(config):
        for index in range(2):
            lams = torch.cat([batch.groups[index].mix.lam for batch in (first, second)])
            assert len(set(lams.tolist())) == 1
            drawn.add(float(lams[0]))
    assert len(drawn) > 7


@pytest.mark.parametrize("accumulation", [1, 2])
def test_worker_processes_change_nothing(finetune_config: MakeConfig, accumulation: int) -> None:
    sections = {**FULL, "batch": {"accumulation": accumulation}}
    here = batches_of(finetune_config(**sections))
    there = batches_of(finetune_config(**{**sections, "data": {**FULL["data"], "workers": 2}}))
    assert len(here) == len(there) == 7
    for first, second in zip(here, there, strict=True):
        for a, b in zip(first, second, strict=True):
            assert_equal(a, b)


def test_resuming_gives_the_rest_of_the_run(finetune_config: MakeConfig) -> None:
    whole = batches_of(finetune_config(**FULL))
    for start in range(8):
        for first, second in zip(whole[start:], batches_of(finetune_config(**FULL), start), strict=True):
            assert_equal(first[0], second[0])


def test_a_second_iteration_replaces_the_first(finetune_config: MakeConfig) -> None:
    batches = build_batches(finetune_config(), 0, 1)
    first = next(batches.steps(0))
    assert_equal(next(batches.steps(0))[0], first[0])
    batches.close()


@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (1, 2), (2, 2)])
def test_samples_do_not_depend_on_how_a_step_is_cut(
    finetune_config: MakeConfig, world_size: int, accumulation: int
) -> None:
    """Pixels, targets, keys and mixing of every sample of a step, gathered in the global order."""
    per_step = {"clips": 8, "images": 8}

    def gather(world_size: int, accumulation: int) -> list[dict[str, Tensor]]:
        config = finetune_config(per_step, **{**FULL, "batch": {"accumulation": accumulation}})
        ranks = [batches_of(config, rank=rank, world_size=world_size) for rank in range(world_size)]
        steps = []
        for step in range(7):
            parts = [ranks[rank][step][micro] for micro in range(accumulation) for rank in range(world_size)]
            gathered = {}
            for index, modality in enumerate(("image", "video")):
                groups = [part.groups[index] for part in parts]
                gathered[f"{modality}.pixels"] = torch.cat([group.pixels for group in groups])
                gathered[f"{modality}.lam"] = torch.cat([group.mix.lam for group in groups])
                chosen = [part.modality == index for part in parts]
                gathered[f"{modality}.noise"] = torch.cat(
                    [part.noise_keys[rows] for part, rows in zip(parts, chosen, strict=True)]
                )
                gathered[f"{modality}.keep"] = torch.cat(
                    [part.drop_path_keep[:, rows] for part, rows in zip(parts, chosen, strict=True)], dim=1
                )
                gathered[f"{modality}.targets"] = torch.cat([part.heads[1 - index].targets for part in parts])
            assert all(part.step_samples == {"image": 8, "video": 8} for part in parts)
            steps.append(gathered)
        return steps

    for whole, cut in zip(gather(1, 1), gather(world_size, accumulation), strict=True):
        for name, value in whole.items():
            assert torch.equal(value, cut[name]), name


def test_alternating_steps_have_every_head(finetune_config: MakeConfig) -> None:
    for [batch] in batches_of(finetune_config(batch={"batching": "alternate"})):
        assert len(batch.groups) == 1
        present = batch.groups[0].modality
        assert batch.step_samples == {"image": 8 * (present == "image"), "video": 4 * (present == "video")}
        rows = {head.modality: len(head.targets) for head in batch.heads}
        assert rows == batch.step_samples


@pytest.fixture
def damaged(media_tree: Path, tmp_path: Path) -> Path:
    """A copy of the media with an empty image, a truncated video and a frame folder whose frame is no image."""
    root = tmp_path / "damaged"
    shutil.copytree(media_tree, root)
    for name in ("images", "clips", "videos"):
        path = root / f"{name}.csv"
        path.write_text(path.read_text().replace(str(media_tree), str(root)))
    (root / "images/i03.jpg").write_bytes(b"")
    video = root / "videos/v1.mp4"
    video.write_bytes(video.read_bytes()[:700])
    for frame in (root / "clips/c02").iterdir():
        frame.write_bytes(b"no picture")
    return root


def redirected(config: Config, media_tree: Path, root: Path, **data: object) -> Config:
    sources = [
        source.model_copy(update={"manifest": source.manifest.replace(str(media_tree), str(root))})
        for source in config.data.sources
    ]
    return config.model_copy(update={"data": config.data.model_copy(update={"sources": sources, **data})})


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_files_stop_the_run_by_default(
    finetune_config: MakeConfig, media_tree: Path, damaged: Path, workers: int
) -> None:
    config = redirected(finetune_config(), media_tree, damaged, workers=workers)
    with pytest.raises(DataError, match=r"damaged/(images/i03|clips/c02/\d)\.jpg: cannot decode") as caught:
        batches_of(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_files_are_replaced_counted_and_named_once(
    pretrain_config: MakeConfig, media_tree: Path, damaged: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = redirected(pretrain_config(engine={"steps": 14}), media_tree, damaged, workers=workers, on_error="skip")
    batches = build_batches(config, 0, 1)
    with caplog.at_level(logging.WARNING):
        steps = list(batches.steps(0))
    assert all(batch.num_sequences == 8 for [batch] in steps)
    ids = {sample_id for [batch] in steps for group in batch.groups for sample_id in group.sample_ids}
    assert not ids & {"i03", "v1"}
    # 56 images pass the 17 of them three times, 28 videos the 5 of them five times; the rest may meet it again.
    assert batches.counters()["data/skipped/image"] in (3, 4)
    assert batches.counters()["data/skipped/video"] in (5, 6)
    for name in ("images/i03.jpg", "videos/v1.mp4"):
        assert sum(name in record.getMessage() for record in caplog.records) == 1
    again = build_batches(config, 0, 1)
    for first, second in zip(steps, again.steps(0), strict=True):
        assert_equal(first[0], second[0])
    batches.close()


def test_a_dataset_without_one_readable_file_is_an_error(
    finetune_config: MakeConfig, media_tree: Path, damaged: Path
) -> None:
    for path in (damaged / "images").iterdir():
        path.write_bytes(b"")
    config = redirected(finetune_config(), media_tree, damaged, on_error="skip")
    with pytest.raises(DataError, match=r"images\.csv: 17 samples in a row are unreadable"):
        batches_of(config)


def test_run_numbers(finetune_config: MakeConfig) -> None:
    batches = build_batches(finetune_config(engine={"epochs": 2}), 0, 1)
    assert batches.total_steps == 4
    assert batches.samples_per_step == {"image": 8, "video": 4}
    keys = [batch.layer_keys.tolist() for [batch] in batches.steps(0)]
    assert [keys.index(one) for one in keys] == [0, 0, 2, 2]
