"""Splits, folds, classes and the held-out part of a source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from s4d.config import Config
from s4d.data.sources import head_classes, load_source, load_sources
from s4d.errors import DataError, UsageError

MakeConfig = Callable[..., Config]


def with_source(config: Config, index: int, **changes: object) -> Config:
    sources = list(config.data.sources)
    sources[index] = sources[index].model_copy(update=changes)
    return config.model_copy(update={"data": config.data.model_copy(update={"sources": sources})})


def test_images_come_first_and_rows_are_ordered(finetune_config: MakeConfig) -> None:
    sources = load_sources(finetune_config())
    assert [source.config.name for source in sources] == ["images", "clips"]
    assert [len(source.rows) for source in sources] == [17, 9]
    for source in sources:
        ids = [row.sample_id for row in source.rows]
        assert ids == sorted(ids)
        assert [source.classes[label] for label in source.labels] == [row.label for row in source.rows]


def test_the_order_of_lines_in_a_manifest_changes_nothing(finetune_config: MakeConfig, media_tree: Path) -> None:
    config = finetune_config()
    header, body = [], []
    for line in Path(config.data.sources[1].manifest).read_text().splitlines():
        (header if line.startswith("#") or line.startswith("sample_id") else body).append(line)
    other = media_tree / "reversed.csv"
    other.write_text("\n".join([*header, *body[::-1]]))
    assert load_source(with_source(config, 1, manifest=str(other)), "images", "train").rows == (
        load_source(config, "images", "train").rows
    )


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
def test_the_held_out_part_takes_whole_identities(finetune_config: MakeConfig, share: float) -> None:
    config = finetune_config(data={"val_share": share})
    train, val = (load_source(config, "images", split).rows for split in ("train", "val"))
    assert len(train) + len(val) == 17
    assert share * 17 <= len(val) < share * 17 + 2
    assert not {row.identity for row in train} & {row.identity for row in val}
    assert load_source(config.model_copy(update={"seed": 5}), "images", "val").rows == val
    assert load_source(config, "images", "test").rows == load_source(finetune_config(), "images", "test").rows


def test_heads_follow_the_configuration(finetune_config: MakeConfig, pretrain_config: MakeConfig) -> None:
    config = with_source(finetune_config(), 0, classes=["sad", "glad", "calm"])
    assert head_classes(config) == {"clips": ("sad", "glad", "calm"), "images": ("calm", "glad", "sad")}
    assert list(head_classes(config)) == ["clips", "images"]
    source = load_source(config, "clips", "train")
    assert [source.classes[label] for label in source.labels] == [row.label for row in source.rows]
    assert head_classes(pretrain_config()) == {}


def test_unknown_names_are_errors(finetune_config: MakeConfig) -> None:
    config = finetune_config()
    with pytest.raises(UsageError, match="'happy' is no class of"):
        load_source(with_source(config, 0, classes=["happy", "sad"]), "clips", "train")
    with pytest.raises(DataError, match="sample 'c00' has label 'calm', expected one of"):
        load_source(with_source(config, 0, classes=["glad", "sad"]), "clips", "train")
    with pytest.raises(DataError, match=r"no rows of split 'dev' .*splits: test, train"):
        load_source(with_source(config, 0, train_split="dev"), "clips", "train")
    with pytest.raises(UsageError, match="source 'clipz' is not in"):
        load_source(config, "clipz", "train")
    with pytest.raises(UsageError, match="split: expected one of"):
        load_source(config, "clips", "dev")
    with pytest.raises(UsageError, match=r"data\.sources\.0\.fold: .* has folds \[\], got 3"):
        load_source(with_source(config, 0, fold=3), "clips", "train")


def test_a_manifest_with_folds_needs_a_choice(finetune_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    lines = [
        f"{name},{'glad' if i % 2 else 'sad'},{split},image,{fold}"
        for fold in (1, 2)
        for i, (name, split) in enumerate((("a", "train"), ("b", "train"), ("c", "test")))
    ]
    path.write_text("\n".join(["path,label,split,kind,fold", *lines]))
    config = with_source(finetune_config(), 1, manifest=str(path))
    with pytest.raises(UsageError, match=r"fold: .* has folds \[1, 2\], choose one"):
        load_source(config, "images", "train")
    rows = load_source(with_source(config, 1, fold=2), "images", "train").rows
    assert [(row.path, row.fold) for row in rows] == [("a", 2), ("b", 2)]


def test_fine_tuning_needs_labels_and_pretraining_does_not(finetune_config: MakeConfig, media_tree: Path) -> None:
    config = with_source(finetune_config(), 0, manifest=str(media_tree / "videos.csv"), classes=None)
    with pytest.raises(DataError, match=r"videos\.csv: fine-tuning needs at least two classes"):
        load_source(config, "clips", "train")
