"""Label files with random damage: a manifest or one line that names a file of the dataset, never anything else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tree_case import Tree, ids
from trees import TREES

from s4d.data.manifest_io import prepare_manifest
from s4d.errors import DataError, UsageError

LISTED = tuple(tree for tree in TREES if tree.listed is not None)
PIECES = (
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe2\x80\xa8", "表".encode(), b'"', b",", b";", b"\t", b"\r", b"\n", b" "),
    *(b"..", b"/", b"\\", b"-1", b"1e9", b"nan", b"_", b".", b"{", b"9" * 5000, b"a" * 200_000),
)


def damaged(text: bytes, rng: random.Random) -> bytes:
    """One to four changes: a piece put in, a byte replaced, bytes lost, bytes doubled, lines shuffled and lost."""
    data = bytearray(text)
    for _ in range(rng.randint(1, 4)):
        at, change = rng.randrange(len(data) + 1), rng.randrange(5)
        if change == 0:
            data[at:at] = rng.choice(PIECES)
        elif change == 1:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif change == 2:
            del data[at : at + rng.randint(1, 30)]
        elif change == 3:
            data[at:at] = data[max(0, at - rng.randint(1, 60)) : at]
        else:
            lines = bytes(data).split(b"\n")
            rng.shuffle(lines)
            data = bytearray(b"\n".join(lines[: rng.randint(0, len(lines))]))
    return bytes(data)


def try_damages(tree: Tree, root: Path, seeds: range) -> None:
    tree.build(root)
    assert tree.listed is not None
    path = root / tree.listed
    text = path.read_bytes()
    for seed in seeds:
        path.write_bytes(damaged(text, random.Random(seed)))
        try:
            prepare_manifest(tree.dataset, root, root.parent / "out.csv", tree.fold)
        except (DataError, UsageError) as error:
            assert str(root) in str(error), (seed, str(error))
            assert "\n" not in str(error), seed


@pytest.fixture(autouse=True)
def _nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing and flushing a file a thousand times is not what is tested here."""
    monkeypatch.setattr("s4d.data.manifest_io.write_manifest", lambda manifest, path: None)


@pytest.mark.parametrize("tree", LISTED, ids=ids(LISTED))
def test_a_few_damages(tree: Tree, tmp_path: Path) -> None:
    try_damages(tree, tmp_path / "data", range(12))


@pytest.mark.deep
@pytest.mark.parametrize("tree", LISTED, ids=ids(LISTED))
def test_many_damages(tree: Tree, tmp_path: Path) -> None:
    try_damages(tree, tmp_path / "data", range(12, 700))
