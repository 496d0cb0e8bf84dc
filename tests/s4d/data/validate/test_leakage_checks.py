"""The same file, content, picture or person on both sides of a split; and splits that share nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from s4d.data.validate.leakage import (
    check_same_content,
    check_same_file,
    check_same_identity,
    check_same_picture,
    crossing,
)
from s4d.data.validate.similar import MAX_DISTANCE

Make = Callable[..., object]


def found_by(check: Callable[..., object], subject: object) -> list[tuple[str, str, str]]:
    return [(item.severity, item.code, item.file) for item in check(subject)]


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ({(None, "train")}, {(None, "test")}, "train and test"),
        ({(None, "train")}, {(None, "train")}, None),
        ({(1, "train")}, {(1, "test")}, "train 1 and test 1"),
        ({(1, "train"), (2, "test")}, {(1, "train"), (2, "test")}, None),
        ({(1, "train")}, {(2, "test")}, None),
        ({(None, "train")}, {(2, "test")}, "train 2 and test 2"),
        ({(1, "train")}, {(1, "val")}, "train 1 and val 1"),
    ],
)
def test_crossing(one: set[tuple[int | None, str]], two: set[tuple[int | None, str]], expected: str | None) -> None:
    assert crossing(frozenset(one), frozenset(two)) == expected


def test_same_file(make_row: Make, make_subject: Make) -> None:
    rows = [
        make_row("folds.jpg", fold=1),
        make_row("folds.jpg", fold=2, split="test"),
        make_row("leak.jpg", fold=1),
        make_row("leak.jpg", fold=1, split="test", sample_id="again"),
        make_row("twice.jpg", sample_id="one"),
        make_row("twice.jpg", sample_id="two", label="sad"),
    ]
    assert found_by(check_same_file, make_subject(rows)) == [
        ("error", "leak-file", "leak.jpg"),
        ("error", "label-conflict", "twice.jpg"),
        ("error", "duplicate-path", "twice.jpg"),
    ]
    assert not found_by(check_same_file, make_subject(rows[:2]))


def test_same_content(make_row: Make, make_probe: Make, make_subject: Make) -> None:
    rows = [
        make_row("a.jpg"),
        make_row("b.jpg", split="test"),
        make_row("c.jpg"),
        make_row("d.jpg", label="sad"),
        make_row("e.jpg", split="test"),
    ]
    digests = {"a.jpg": "1", "b.jpg": "1", "c.jpg": "2", "d.jpg": "2", "e.jpg": "3"}
    probes = [make_probe(path, sha256=digest) for path, digest in digests.items()]
    assert found_by(check_same_content, make_subject(rows, probes)) == [
        ("error", "leak-content", "b.jpg"),
        ("error", "label-conflict", "d.jpg"),
        ("warning", "duplicate-content", ""),
    ]
    apart = [make_probe(path, sha256=str(index)) for index, path in enumerate(digests)]
    assert not found_by(check_same_content, make_subject(rows, apart))
    assert not found_by(check_same_content, make_subject(rows, [make_probe(path) for path in digests]))


def hash_of(seed: int, flipped: int = 0) -> str:
    """A random hash, or one `flipped` bits away from it."""
    bits = np.random.default_rng(seed).integers(0, 2, 256)
    bits[:flipped] ^= 1
    return np.packbits(bits).tobytes().hex()


def test_same_picture(make_row: Make, make_probe: Make, make_subject: Make) -> None:
    rows = [make_row(f"{name}.jpg", split="test" if name in "bd" else "train") for name in "abcde"]
    hashes = {
        "a": hash_of(1),
        "b": hash_of(1, 9),
        "c": hash_of(2),
        "d": hash_of(2, MAX_DISTANCE + 1),
        "e": hash_of(1, 1),
    }
    probes = [make_probe(f"{name}.jpg", hashes=(text,)) for name, text in hashes.items()]
    found = list(check_same_picture(make_subject(rows, probes)))
    assert [(item.severity, item.code) for item in found] == [("warning", "leak-picture")] * 2
    assert {(item.file, item.text.split()[2]) for item in found} == {("b.jpg", "a.jpg"), ("e.jpg", "b.jpg")}


def test_clips_must_agree_in_every_hash(make_row: Make, make_probe: Make, make_subject: Make) -> None:
    rows = [make_row(f"{name}.mp4", kind="video", split="test" if name == "b" else "train") for name in "abc"]
    probes = [
        make_probe("a.mp4", hashes=(hash_of(1), hash_of(2), hash_of(3))),
        make_probe("b.mp4", hashes=(hash_of(1, 5), hash_of(2, 3), hash_of(3, 1))),
        make_probe("c.mp4", hashes=(hash_of(7), hash_of(2), hash_of(3))),
    ]
    (finding,) = check_same_picture(make_subject(rows, probes))
    assert (finding.file, finding.text.split()[2]) == ("b.mp4", "a.mp4")


def test_same_identity(make_row: Make, make_subject: Make) -> None:
    rows = [
        make_row("a.jpg", identity="ann", fold=1),
        make_row("b.jpg", identity="ann", fold=2, split="test"),
        make_row("c.jpg", identity="bob", fold=1, split="test"),
        make_row("d.jpg", fold=1, split="test"),
    ]
    assert not found_by(check_same_identity, make_subject(rows))
    rows.append(make_row("e.jpg", identity="bob", fold=1))
    (finding,) = check_same_identity(make_subject(rows))
    assert (finding.severity, finding.code) == ("warning", "leak-identity")
    assert "1 identities are in both test 1 and train 1 (first: bob)" in finding.text
