"""Class names against a checkpoint, class balance, and counts against published lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from s4d.data.validate.balance import check_imbalance, check_missing_classes, check_partly_labelled, imbalance
from s4d.data.validate.counts import check_counts
from s4d.data.validate.labels import check_label_order
from s4d.data.validate.subject import Reference
from s4d.datasets.published import PUBLISHED

Make = Callable[..., object]


@pytest.mark.parametrize(
    ("heads", "code"),
    [
        ({"made": ("calm", "glad", "sad")}, None),
        ({"other": ("calm", "glad", "sad")}, None),
        ({"first": ("sad", "glad", "calm"), "second": ("calm", "glad", "sad")}, None),
        ({"made": ("sad", "glad", "calm")}, "label-order"),
        ({"other": ("sad", "glad", "calm"), "far": ("x", "y")}, "label-order"),
        ({"made": ("sad", "glad")}, "label-names"),
        ({"only": ("sad", "glad", "calm", "angry")}, "label-names"),
        ({"one": ("x", "y"), "two": ("y", "z")}, "label-names"),
        ({}, "no-heads"),
    ],
)
def test_label_order(make_row: Make, make_subject: Make, heads: dict[str, tuple[str, ...]], code: str | None) -> None:
    reference = Reference(folder=Path("run"), heads=heads)
    found = list(check_label_order(make_subject([make_row("a.jpg")], reference=reference)))
    assert [item.code for item in found] == ([code] if code else [])
    if code == "label-order":
        assert "sad, glad, calm" in found[0].text and "calm, glad, sad" in found[0].text


def test_without_a_checkpoint_the_order_is_free(make_row: Make, make_subject: Make) -> None:
    assert not list(check_label_order(make_subject([make_row("a.jpg")])))


def labelled(make_row: Make, counts: dict[str, int], **fields: object) -> list[object]:
    return [
        make_row(f"{fields.get('split', 'train')}/{label}{number}.jpg", label=label, **fields)
        for label, count in counts.items()
        for number in range(count)
    ]


def test_missing_classes(make_row: Make, make_subject: Make) -> None:
    rows = labelled(make_row, {"calm": 2, "glad": 1}) + labelled(make_row, {"calm": 1, "sad": 1}, split="test")
    found = list(check_missing_classes(make_subject(rows)))
    assert [(item.severity, item.text) for item in found] == [
        ("error", "train has no samples of sad"),
        ("warning", "test has no samples of glad"),
    ]
    assert not list(check_missing_classes(make_subject(labelled(make_row, dict.fromkeys(("calm", "glad", "sad"), 1)))))


def test_unlabelled_data_lack_no_classes(make_row: Make, make_subject: Make) -> None:
    subject = make_subject([make_row("a.mp4", kind="video", label=None)], classes=())
    assert not list(check_missing_classes(subject)) and not list(check_partly_labelled(subject))
    assert imbalance(subject) == {}


def test_rows_without_a_label(make_row: Make, make_subject: Make) -> None:
    rows = [make_row("a.jpg"), make_row("b.jpg", label=None), make_row("c.jpg", label=None)]
    (finding,) = check_partly_labelled(make_subject(rows))
    assert (finding.row, finding.field, finding.text.split()[0]) == (2, "label", "2")
    assert not list(check_partly_labelled(make_subject(rows[:1])))


def test_imbalance(make_row: Make, make_subject: Make) -> None:
    even = make_subject(labelled(make_row, {"calm": 9, "glad": 3, "sad": 1}))
    assert imbalance(even) == {"train": 9.0} and not list(check_imbalance(even))
    (finding,) = check_imbalance(make_subject(labelled(make_row, {"calm": 30, "glad": 3, "sad": 2})))
    assert (finding.severity, finding.text) == ("note", "train: calm (30) is 15.0 times as frequent as sad (2)")


def test_published_counts(make_row: Make, make_subject: Make) -> None:
    published = next(entry for entry in PUBLISHED["dfew"] if (entry.split, entry.fold) == ("test", 1))
    rows = labelled(make_row, dict(published.classes), split="test", fold=1)
    classes = tuple(published.classes)
    (finding,) = check_counts(make_subject(rows, classes=classes, dataset="dfew"))
    assert (finding.severity, finding.code) == ("note", "counts-agree")
    (finding,) = check_counts(make_subject(rows[3:], classes=classes, dataset="dfew"))
    assert (finding.severity, finding.code) == ("warning", "counts")
    assert finding.text.startswith(f"test 1: {published.total - 3} samples, {published.total} published")
    assert f"{classes[0]} {published.classes[classes[0]] - 3} of {published.classes[classes[0]]}" in finding.text
    assert not list(check_counts(make_subject(rows, classes=classes)))
