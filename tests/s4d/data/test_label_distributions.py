"""Shares of votes from a manifest to the targets of a batch, with smoothing and mixup on top."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from s4d.config import Config
from s4d.data.evaluation import build_evaluation
from s4d.data.loader import build_batches
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import read_manifest, write_manifest
from s4d.data.sources import load_source
from s4d.errors import DataError

MakeConfig = Callable[..., Config]
Votes = dict[str, float] | None


def votes_of(row: ManifestRow) -> Votes:
    """Most votes for the label, the others for one other class; at number 21 it is the other way round."""
    number = int(row.sample_id[1:])
    other = "calm" if row.label != "calm" else "glad"
    return {other: 0.3 + 0.01 * number, str(row.label): 0.7 - 0.01 * number}


@pytest.fixture
def voted(finetune_config: MakeConfig, media_tree: Path, tmp_path: Path) -> Callable[..., Config]:
    """A run whose images carry votes; `votes` gives those of a row, keyword arguments replace fields of sections."""

    def make(
        votes: Callable[[ManifestRow], Votes] = votes_of,
        suffix: str = "csv",
        fields: dict[str, object] | None = None,
        **sections: dict[str, object],
    ) -> Config:
        manifest = read_manifest(media_tree / "images.csv")
        rows = []
        for row in manifest.rows:
            given = votes(row)
            rows.append(dataclasses.replace(row, distribution=None if given is None else tuple(given.items())))
        path = tmp_path / f"voted.{suffix}"
        write_manifest(dataclasses.replace(manifest, rows=tuple(rows)), path)
        config = finetune_config(**sections)
        sources = list(config.data.sources)
        changes = {"manifest": str(path), "targets": "distribution", **(fields or {})}
        sources[1] = sources[1].model_copy(update=changes)
        return config.model_copy(update={"data": config.data.model_copy(update={"sources": sources})})

    return make


def unmixed(config: Config, sample_ids: tuple[str, ...]) -> torch.Tensor:
    """What the targets must be before smoothing and mixing, straight from the manifest."""
    rows = {row.sample_id: row for row in read_manifest(config.data.sources[1].manifest).rows}
    classes = config.data.sources[1].classes or ["calm", "glad", "sad"]
    given = [dict(rows[sample_id].distribution or ()) for sample_id in sample_ids]
    return torch.tensor([[votes.get(name, 0.0) for name in classes] for votes in given])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_targets_are_the_shares_in_head_order(voted: Callable[..., Config], suffix: str) -> None:
    config = voted(suffix=suffix, fields={"classes": ["sad", "calm", "glad"]})
    batches = build_batches(config, 0, 1)
    seen = set()
    for [batch] in batches.steps(0):
        images = next(head for head in batch.heads if head.head == "images")
        expected = unmixed(config, batch.groups[0].sample_ids)
        assert images.targets.dtype == torch.float32
        assert torch.allclose(images.targets, expected, atol=1e-6)
        assert images.targets.max() < 0.99
        clips = next(head for head in batch.heads if head.head == "clips")
        assert clips.targets.max() == 1.0
        seen |= set(batch.groups[0].sample_ids)
    assert len(seen) == 17


def test_smoothing_and_mixing_come_on_top(voted: Callable[..., Config]) -> None:
    mix = {"mixup_alpha": 0.8, "label_smoothing": 0.1}
    config = voted(data={"mix": mix})
    mixed = 0
    for [batch] in build_batches(config, 0, 1).steps(0):
        images = next(head for head in batch.heads if head.head == "images")
        group = batch.groups[0]
        assert group.mix is not None
        own = 0.9 * unmixed(config, group.sample_ids) + 0.1 / 3
        lam = group.mix.lam[:, None]
        assert torch.allclose(images.targets, lam * own + (1 - lam) * own[group.mix.partner], atol=1e-6)
        mixed += int((lam < 0.99).sum())
    assert mixed > 0


def test_labels_are_the_default_and_draws_stay_the_same(voted: Callable[..., Config]) -> None:
    soft, hard = voted(), voted(fields={"targets": "labels"})
    for [a], [b] in zip(build_batches(soft, 0, 1).steps(0), build_batches(hard, 0, 1).steps(0), strict=True):
        assert torch.equal(a.groups[0].pixels, b.groups[0].pixels)
        assert torch.equal(a.noise_keys, b.noise_keys)
        images = next(head for head in b.heads if head.head == "images")
        assert set(images.targets.flatten().tolist()) == {0.0, 1.0}
    assert load_source(hard, "images", "train").shares is None


def test_evaluation_keeps_to_the_label(voted: Callable[..., Config]) -> None:
    config = voted(data={"mix": {"label_smoothing": 0.1}})
    source = load_source(config, "images", "test")
    assert source.shares is not None
    for item in build_evaluation(config, "test", "images", 0, 1):
        real = item.weights > 0
        targets = next(head for head in item.batch.heads if head.head == "images").targets
        assert targets.argmax(1)[real].tolist() == item.labels[real].tolist()
        assert set(targets.flatten().tolist()) == {0.0, 1.0}


def test_a_substitute_has_its_own_shares(voted: Callable[..., Config], media_tree: Path, tmp_path: Path) -> None:
    config = voted(data={"on_error": "skip"})
    manifest = read_manifest(config.data.sources[1].manifest)
    rows = [
        dataclasses.replace(row, path="gone.jpg") if i % 3 == 0 and row.split == "train" else row
        for i, row in enumerate(manifest.rows)
    ]
    write_manifest(dataclasses.replace(manifest, rows=tuple(rows)), config.data.sources[1].manifest)
    batches = build_batches(config, 0, 1)
    for [batch] in batches.steps(0):
        images = next(head for head in batch.heads if head.head == "images")
        assert torch.allclose(images.targets, unmixed(config, batch.groups[0].sample_ids), atol=1e-6)
    assert batches.counters()["data/skipped/image"] > 0


def test_rounded_shares_add_up_to_one(voted: Callable[..., Config]) -> None:
    config = voted(lambda row: {"calm": 0.3333, "glad": 0.3333, "sad": 0.3333})
    shares = load_source(config, "images", "train").shares
    assert shares is not None
    assert np.allclose(np.sum(shares, axis=1), 1, atol=1e-12)


@pytest.mark.parametrize(
    ("votes", "fields", "message"),
    [
        (
            lambda row: None if row.sample_id == "i03" else votes_of(row),
            {},
            "voted.csv: sample 'i03': field 'distribution' is empty, but source images has targets: distribution",
        ),
        (
            lambda row: {"bored": 0.1, "calm": 0.9},
            {},
            "voted.csv: sample 'i00': field 'distribution': 'bored' is not one of the classes calm, glad, sad",
        ),
    ],
)
def test_shares_that_do_not_fit_are_refused(
    voted: Callable[..., Config], votes: Callable[[ManifestRow], Votes], fields: dict[str, object], message: str
) -> None:
    config = voted(votes, fields=fields)
    with pytest.raises(DataError) as caught:
        load_source(config, "images", "train")
    assert message in str(caught.value)


def test_a_class_without_votes_may_be_unknown_to_the_head(voted: Callable[..., Config]) -> None:
    config = voted(lambda row: {"bored": 0.0, "calm": 0.5, "glad": 0.5})
    assert load_source(config, "images", "train").shares == ((0.5, 0.5, 0.0),) * 17


def test_pretraining_reads_no_shares(pretrain_config: MakeConfig) -> None:
    config = pretrain_config()
    sources = [source.model_copy(update={"targets": "distribution"}) for source in config.data.sources]
    config = config.model_copy(update={"data": config.data.model_copy(update={"sources": sources})})
    assert load_source(config, "images", "train").shares is None


@pytest.mark.parametrize("cell", ['{"calm": 1.2, "sad": -0.2}', '{"calm": 0.5}', '{"calm": NaN}', "[0.5, 0.5]", "calm"])
def test_cells_that_are_no_shares_are_named(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "m.csv"
    quoted = cell.replace('"', '""')
    path.write_text(f'path,label,split,kind,distribution\na.jpg,calm,train,image,"{quoted}"\n')
    with pytest.raises(DataError, match=r"m\.csv: row 2: .*distribution"):
        read_manifest(path)
