"""Every way in which a tree can be wrong, for every dataset: one line naming file, row and field, and no manifest.

What is odd but not wrong (a byte-order mark, line ends of Windows, blanks and foreign letters in the way to a dataset)
changes nothing in the manifest, and what was taken off is said.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tree_case import Tree, ids
from trees import TREES

from s4d.data.manifest_io import Manifest, prepare_manifest
from s4d.errors import DataError

LISTED = tuple(tree for tree in TREES if tree.listed is not None)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Tree], Path]:
    """A miniature as built, made once."""
    root = tmp_path_factory.mktemp("trees")

    def built(tree: Tree) -> Path:
        path = root / tree.id
        if not path.exists():
            tree.build(path)
        return path

    return built


def prepared(tree: Tree, root: Path, *, skip: bool = False) -> Manifest:
    return prepare_manifest(tree.dataset, root, root.parent / "out.csv", tree.fold, skip_damaged=skip)


def label_file(tree: Tree, root: Path) -> Path:
    assert tree.listed is not None
    return root / tree.listed


def change_line(tree: Tree, root: Path, change: Callable[[bytes], bytes]) -> None:
    """Rewrite the line of the list that names the medium."""
    path = label_file(tree, root)
    lines = path.read_bytes().split(b"\n")
    lines[tree.line - 1] = change(lines[tree.line - 1])
    path.write_bytes(b"\n".join(lines))


def rename(tree: Tree, name: bytes) -> Callable[[Path], None]:
    def change(line: bytes) -> bytes:
        assert tree.name.encode() in line
        return line.replace(tree.name.encode(), name, 1)

    return lambda root: change_line(tree, root, change)


def relabel(tree: Tree, label: bytes) -> Callable[[Path], None]:
    def change(line: bytes) -> bytes:
        start = line.index(tree.name.encode()) + len(tree.name)
        assert tree.label.encode() in line[start:]
        return line[:start] + line[start:].replace(tree.label.encode(), label, 1)

    return lambda root: change_line(tree, root, change)


def replace_by_link(tree: Tree, target: Callable[[Path], Path]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        medium = root / tree.medium
        shutil.move(medium, root.parent / "elsewhere")
        medium.symlink_to(target(root))

    return change


def first_file(medium: Path) -> Path:
    return min(medium.iterdir()) if medium.is_dir() else medium


@dataclass(frozen=True, slots=True)
class Wrong:
    """One damage and what its error must name: some words, the row, the field (name or label), the medium."""

    damage: Callable[[Tree], Callable[[Path], object]]
    words: tuple[str, ...] = ()
    row: bool = False
    field: str = ""
    medium: bool = False


IN_LISTS = {
    "no-list": Wrong(lambda tree: lambda root: label_file(tree, root).unlink()),
    "empty-list": Wrong(lambda tree: lambda root: label_file(tree, root).write_bytes(b"")),
    "unknown-label": Wrong(lambda tree: relabel(tree, b"yawning"), ("'yawning'",), row=True, field="label"),
    "latin-1": Wrong(lambda tree: rename(tree, b"caf\xe9"), row=True),
    "zero-byte-in-text": Wrong(lambda tree: rename(tree, b"a\0b"), ("zero byte",), row=True),
    "utf-16": Wrong(
        lambda tree: (
            lambda root: label_file(tree, root).write_bytes(
                label_file(tree, root).read_bytes().decode("latin-1").encode("utf-16")
            )
        ),
        ("UTF-16",),
    ),
    "absolute-path": Wrong(lambda tree: rename(tree, b"/etc/passwd"), ("absolute path",), row=True, field="name"),
    "windows-path": Wrong(lambda tree: rename(tree, b"C:\\data\\1"), ("absolute path",), row=True, field="name"),
    "way-out": Wrong(lambda tree: rename(tree, b"../../secret"), ("leads out",), row=True, field="name"),
    "backslash": Wrong(lambda tree: rename(tree, b"a\\b"), ("backslashes",), row=True, field="name"),
    "missing-medium": Wrong(
        lambda tree: lambda root: (root / tree.medium).rename(root.parent / "gone"), ("do not exist",), row=True
    ),
    "dangling-link": Wrong(
        lambda tree: replace_by_link(tree, lambda root: root / "nothing"), ("do not exist",), row=True
    ),
}
IN_TREES = {
    "no-media-folder": Wrong(lambda tree: lambda root: shutil.rmtree(root / tree.media)),
    "link-loop": Wrong(lambda tree: replace_by_link(tree, lambda root: root / tree.medium), ("loop",), medium=True),
    "link-outside": Wrong(
        lambda tree: replace_by_link(tree, lambda root: root.parent / "elsewhere"), ("leads outside",), medium=True
    ),
    "zero-bytes": Wrong(
        lambda tree: lambda root: first_file(root / tree.medium).write_bytes(b""), ("is empty",), medium=True
    ),
}


def pairs(trees: Sequence[Tree], wrongs: Iterable[str]) -> list[object]:
    return [
        pytest.param(tree, wrong, id=f"{tree.id}-{wrong}")
        for tree in trees
        for wrong in wrongs
        if wrong not in tree.bears
    ]


def refused(tree: Tree, root: Path, wrong: Wrong) -> None:
    wrong.damage(tree)(root)
    with pytest.raises(DataError) as caught:
        prepared(tree, root)
    message = str(caught.value)
    assert "\n" not in message
    for word in wrong.words:
        assert word in message
    if wrong.row:
        assert f"{root / tree.listed}: line {tree.line}" in message
    if wrong.field:
        assert f"field '{tree.label_column if wrong.field == 'label' else tree.name_column}'" in message
    if wrong.medium:
        assert str(root / tree.medium) in message
    assert str(root) in message
    assert not (root.parent / "out.csv").exists()


@pytest.mark.parametrize(("tree", "wrong"), pairs(LISTED, IN_LISTS))
def test_wrong_lists(tree: Tree, wrong: str, pristine: Callable[[Tree], Path], tmp_path: Path) -> None:
    shutil.copytree(pristine(tree), tmp_path / "data")
    refused(tree, tmp_path / "data", IN_LISTS[wrong])


@pytest.mark.parametrize(("tree", "wrong"), pairs(TREES, IN_TREES))
def test_wrong_media(tree: Tree, wrong: str, pristine: Callable[[Tree], Path], tmp_path: Path) -> None:
    shutil.copytree(pristine(tree), tmp_path / "data")
    refused(tree, tmp_path / "data", IN_TREES[wrong])


@pytest.mark.parametrize("tree", LISTED, ids=ids(LISTED))
def test_a_column_too_many(tree: Tree, pristine: Callable[[Tree], Path], tmp_path: Path) -> None:
    shutil.copytree(pristine(tree), tmp_path / "data")
    surplus = f"{tree.split_by}surplus".encode()
    wrong = Wrong(lambda tree: lambda root: change_line(tree, root, lambda line: line + surplus), row=True)
    refused(tree, tmp_path / "data", wrong)


@pytest.mark.parametrize("tree", TREES, ids=ids(TREES))
def test_empty_media_are_left_out_by_name(tree: Tree, pristine: Callable[[Tree], Path], tmp_path: Path) -> None:
    shutil.copytree(pristine(tree), tmp_path / "data")
    damaged = first_file(tmp_path / "data" / tree.medium)
    damaged.write_bytes(b"")
    manifest = prepared(tree, tmp_path / "data", skip=True)
    assert manifest.left_out == (f"{damaged}: the file is empty",)
    assert tree.medium not in {row.path for row in manifest.rows}


@pytest.mark.parametrize("tree", LISTED, ids=ids(LISTED))
def test_byte_order_mark_and_windows_line_ends(
    tree: Tree, pristine: Callable[[Tree], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(pristine(tree), tmp_path / "data")
    expected = prepared(tree, tmp_path / "data").rows
    path = label_file(tree, tmp_path / "data")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert prepared(tree, tmp_path / "data").rows == expected
    said = [message for message in caplog.messages if str(path) in message]
    assert any("a byte-order mark and line ends with a carriage return" in message for message in said)


@pytest.mark.parametrize("tree", TREES, ids=ids(TREES))
def test_blanks_and_foreign_letters_in_the_way(tree: Tree, pristine: Callable[[Tree], Path], tmp_path: Path) -> None:
    root = tmp_path / "my data, Größe 表情 'x'" / tree.dataset
    root.parent.mkdir()
    shutil.copytree(pristine(tree), root)
    plain = prepare_manifest(tree.dataset, pristine(tree), tmp_path / "plain.csv", tree.fold)
    odd = prepared(tree, root)
    assert (odd.rows, odd.classes, odd.fingerprint) == (plain.rows, plain.classes, plain.fingerprint)
    assert odd.root == root


@pytest.mark.parametrize("tree", TREES, ids=ids(TREES))
def test_the_whole_dataset_may_be_a_link(tree: Tree, pristine: Callable[[Tree], Path], tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(pristine(tree))
    assert len(prepared(tree, tmp_path / "data").rows) == tree.rows // (2 if tree.fold else 1)


def test_a_part_of_voxceleb2_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = next(tree for tree in TREES if tree.dataset == "voxceleb2")
    tree.build(tmp_path / "data")
    shutil.rmtree(tmp_path / "data/dev")
    with caplog.at_level(logging.WARNING):
        assert {row.split for row in prepared(tree, tmp_path / "data").rows} == {"test"}
    assert caplog.messages == [f"{tmp_path / 'data'}: no folder dev/mp4, so no train split"]
