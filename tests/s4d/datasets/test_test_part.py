"""The test part of one's own data that names no split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import prepare_manifest
from s4d.datasets.test_part import with_test_part


def rows_of(
    count: int, label: Callable[[int], str | None], person: Callable[[int], str | None] = lambda index: None
) -> list[ManifestRow]:
    return [
        ManifestRow(
            sample_id=f"{index}.mp4",
            path=f"{index}.mp4",
            kind="video",
            dataset="folder",
            split="train",
            label=label(index),
            identity=person(index),
        )
        for index in range(count)
    ]


def divided(rows: Sequence[ManifestRow]) -> list[ManifestRow]:
    made = with_test_part(Path("mine"), rows)
    assert [row.sample_id for row in made] == [row.sample_id for row in rows]
    assert {row.split for row in made} <= {"train", "test"}
    return made


def test_a_fifth_of_each_class() -> None:
    made = divided(rows_of(55, lambda index: "rare" if index < 5 else "frequent"))
    assert Counter((row.label, row.split) for row in made) == {
        ("rare", "test"): 1,
        ("rare", "train"): 4,
        ("frequent", "test"): 10,
        ("frequent", "train"): 40,
    }


def test_a_class_of_one_and_unlabelled_samples_stay_in_training() -> None:
    made = divided(rows_of(12, lambda index: {0: "single", 1: None}.get(index, "glad")))
    assert [row.split for row in made[:2]] == ["train", "train"]
    assert Counter(row.split for row in made[2:]) == {"train": 8, "test": 2}
    assert {row.split for row in divided(rows_of(4, lambda index: None))} == {"train"}


@pytest.mark.parametrize("people", [2, 3, 10, 40])
def test_nobody_is_in_both_parts(people: int) -> None:
    made = divided(rows_of(40, lambda index: f"class {index % 3}", lambda index: f"p{index % people}"))
    parts = {split: {row.identity for row in made if row.split == split} for split in ("train", "test")}
    assert parts["train"] and parts["test"] and not parts["train"] & parts["test"]
    assert sum(row.split == "test" for row in made) == max(8 // (40 // people), 1) * (40 // people)


def test_samples_without_a_person_stand_for_themselves() -> None:
    made = divided(rows_of(40, lambda index: "glad", lambda index: f"p{index % 2}" if index < 30 else None))
    assert {row.split for row in made[:30]} == {"train"}
    assert Counter(row.split for row in made[30:]) == {"train": 2, "test": 8}


def test_one_known_person_is_no_way_to_divide() -> None:
    made = divided(rows_of(10, lambda index: "glad", lambda index: "anna"))
    assert Counter(row.split for row in made) == {"train": 8, "test": 2}


def test_the_choice_follows_names_alone() -> None:
    rows = rows_of(50, lambda index: f"class {index % 2}")
    chosen = {row.sample_id for row in divided(rows) if row.split == "test"}
    assert chosen == {row.sample_id for row in divided(rows[::-1]) if row.split == "test"}
    more = {row.sample_id for row in divided(rows_of(54, lambda index: f"class {index % 2}")) if row.split == "test"}
    assert len(chosen - more) <= 2


@pytest.mark.parametrize("table", [False, True])
def test_preparing_says_what_is_held_out(tmp_path: Path, table: bool, caplog: pytest.LogCaptureFixture) -> None:
    for name in [f"{label}/{number}.png" for label in ("glad", "sad") for number in range(5)]:
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "mine" / name)
    if table:
        lines = [f"{path.relative_to(tmp_path / 'mine')},{path.parent.name}\n" for path in tmp_path.rglob("*.png")]
        (tmp_path / "mine/labels.csv").write_text("path,label\n" + "".join(lines), encoding="utf-8")
    rows = prepare_manifest("folder", tmp_path / "mine", tmp_path / "mine.csv").rows
    assert Counter((row.label, row.split) for row in rows) == {
        (label, split): count for label in ("glad", "sad") for split, count in (("train", 4), ("test", 1))
    }
    assert any("names no split; 2 of 10 samples become the test part" in message for message in caplog.messages)
