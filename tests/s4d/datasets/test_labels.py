"""Class names, their public orders, and the published counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from tree_case import Tree
from trees_video import VIDEO_TREES, ferv39k

from s4d.config import Config
from s4d.data.manifest_io import prepare_manifest
from s4d.data.sources import head_classes
from s4d.datasets import CLASS_NAMES, DATASETS
from s4d.datasets.labels import ORDERS, SYNONYMS, canonical, order_of
from s4d.datasets.published import PUBLISHED, PublishedCount
from s4d.errors import DataError, UsageError

CASES = [(dataset, name) for dataset, orders in ORDERS.items() for name in orders]


@pytest.mark.parametrize(("dataset", "name"), CASES)
def test_an_order_has_every_class_once(dataset: str, name: str) -> None:
    assert sorted(ORDERS[dataset][name]) == sorted(CLASS_NAMES[dataset])
    assert all(canonical(label) == label for label in ORDERS[dataset][name])


@pytest.mark.parametrize("dataset", ORDERS)
def test_the_order_of_the_release_is_the_default(dataset: str) -> None:
    assert ORDERS[dataset]["s4d"] == CLASS_NAMES[dataset]


def test_orders_differ_where_codebases_do() -> None:
    assert len(set(ORDERS["mafw"].values())) == 3
    assert len(set(ORDERS["ferv39k"].values())) == 2
    assert len(set(ORDERS["dfew"].values())) == 1
    assert ORDERS["mafw"]["mae-dfer"][6:8] == ("surprise", "contempt")
    assert ORDERS["mafw"]["dfer-clip"][:2] == ("happiness", "sadness")


def test_every_spelling_leads_to_a_class() -> None:
    known = {label for names in CLASS_NAMES.values() for label in names}
    assert set(SYNONYMS.values()) <= known and not set(SYNONYMS) & known
    assert [canonical(text) for text in ("Happy", "happiness", " SAD ", "angry", "Surprise")] == [
        "happiness",
        "happiness",
        "sadness",
        "anger",
        "surprise",
    ]


@pytest.mark.parametrize(
    ("dataset", "name", "message"),
    [
        ("mafw", "mae_dfer", "--labels: no label order 'mae_dfer' for dataset mafw, did you mean mae-dfer?"),
        ("voxceleb2", "s4d", "--labels: no label order 's4d' for dataset voxceleb2 (dataset voxceleb2 has no named"),
    ],
)
def test_unknown_orders(dataset: str, name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        order_of(dataset, name, "--labels")
    assert message in str(caught.value)


@pytest.mark.parametrize("tree", [tree for tree in VIDEO_TREES if tree.dataset in ORDERS], ids=lambda tree: tree.id)
def test_another_order_changes_the_head_and_no_label(tree: Tree, tmp_path: Path) -> None:
    assert tree.listed is not None
    numbers = tree.listed.endswith(".csv") and tree.dataset in ("mafw", "ferv39k") and tree.form != "original"
    tree.build(tmp_path / "data")
    usual = prepare_manifest(tree.dataset, tmp_path / "data", tmp_path / "usual.csv")
    for name, order in ORDERS[tree.dataset].items():
        if numbers and order != usual.classes:
            continue
        other = prepare_manifest(tree.dataset, tmp_path / "data", tmp_path / "other.csv", labels=name)
        assert other.rows == usual.rows
        assert other.classes == order


def test_bare_numbers_follow_the_order_asked_for(tmp_path: Path) -> None:
    tree = next(tree for tree in VIDEO_TREES if tree.id == "mafw-crops")
    tree.build(tmp_path / "data")
    for name, order in ORDERS["mafw"].items():
        rows = prepare_manifest("mafw", tmp_path / "data", tmp_path / "m.csv", labels=name).rows
        assert {row.sample_id: row.label for row in rows if row.fold == 1} == {
            f"{number:05d}": order[number % 11] for number in range(1, 23)
        }


def test_numbers_of_another_order_show_in_the_folders_of_ferv39k(tmp_path: Path) -> None:
    ferv39k(released=True)(tmp_path / "data")
    with pytest.raises(DataError, match=r"train.csv: line 2: field 'path': .*Disgust.* has label 'sadness'.*--labels"):
        prepare_manifest("ferv39k", tmp_path / "data", tmp_path / "m.csv", labels="mae-dfer")


def test_a_source_may_name_its_order(tmp_path: Path) -> None:
    for dataset in ("mafw", "folder"):
        tree = next(tree for tree in VIDEO_TREES if tree.dataset == dataset)
        tree.build(tmp_path / dataset)
        prepare_manifest(dataset, tmp_path / dataset, tmp_path / f"{dataset}.csv", tree.fold)

    def heads(dataset: str, classes: str) -> dict[str, tuple[str, ...]]:
        source = {
            "name": "made",
            "modality": "video",
            "manifest": str(tmp_path / f"{dataset}.csv"),
            "classes": classes,
        }
        return head_classes(run_of(source))

    assert heads("mafw", "dfer-clip") == {"made": ORDERS["mafw"]["dfer-clip"]}
    with pytest.raises(UsageError, match=r"data.sources \(made\): classes: no label order 's4d' for dataset folder"):
        heads("folder", "s4d")


def run_of(source: dict[str, str]) -> Config:
    return Config.model_validate(
        {
            "name": "made",
            "run_dir": "runs/made",
            "task": "finetune",
            "data": {"sources": [source]},
            "batch": {"per_step": {"made": 2}},
            "optim": {"lr": 1e-3},
            "engine": {"steps": 1},
        }
    )


def test_published_counts_agree_with_each_other() -> None:
    """Every clip is in the train or the test part of every fold, so each fold has the same classes in all."""
    for dataset, entries in PUBLISHED.items():
        assert dataset in DATASETS
        by_list: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
        totals: dict[tuple[str, int], int] = Counter()
        for entry in entries:
            assert entry.split in ("train", "val", "test") and entry.total > 0
            assert set(entry.classes) <= set(CLASS_NAMES[dataset])
            if entry.fold is not None:
                by_list[entry.source, entry.fold].update(entry.classes)
                totals[entry.source, entry.fold] += entry.total
        for source in {source for source, _ in totals}:
            assert len({total for (name, _), total in totals.items() if name == source}) == 1
            assert len({tuple(sorted(all_.items())) for (name, _), all_ in by_list.items() if name == source}) == 1


def test_published_totals() -> None:
    def total(dataset: str, source: str, fold: int | None = 1) -> int:
        return sum(entry.total for entry in PUBLISHED[dataset] if (entry.source, entry.fold) == (source, fold))

    assert total("dfew", "single-labelled set", 5) == 11_697
    assert total("ferv39k", "all scenes", None) == 38_935
    assert total("mafw", "single set", 3) == 9_172
    assert total("mafw", "single set, clips with a caption", 2) == 8_034
    assert total("mafw_compound", "compound set", 4) == 8_996
    assert total("mafw_compound", "compound set, clips with a caption", 5) == 7_858


def test_a_count_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(ValueError, match="classes add up to 3, total 4"):
        PublishedCount(split="test", total=4, source="made", classes={"anger": 3})
