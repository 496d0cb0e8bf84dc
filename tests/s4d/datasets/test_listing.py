"""Text, tables and paths of label files."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from s4d.datasets.listing import (
    Entry,
    LabelFile,
    class_name,
    class_number,
    inner_path,
    read_columns,
    read_identities,
    read_lines,
    read_table,
    refuse_missing,
    refuse_overlap,
    refuse_repeats,
)
from s4d.datasets.request import Request
from s4d.errors import DataError, UsageError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "list.csv"


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\r", ["a", "b"]),
        (b"\xef\xbb\xbfa\n", ["a"]),
        ("Größe\x0b\x85\u2028x\n".encode(), ["Größe\x0b\x85\u2028x"]),
    ],
)
def test_lines_end_where_lines_end(file: Path, data: bytes, lines: list[str]) -> None:
    """Only line feeds and carriage returns: a caption may hold what str.splitlines takes for an end."""
    file.write_bytes(data)
    assert read_lines(file) == lines


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\nb\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
        (b"a\n\nb\0\n", "line 3: holds a zero byte"),
        (b"\xff\xfea\0", "not a readable text file: UTF-16"),
        (b"\xfe\xff\0a", "not a readable text file: UTF-16"),
    ],
)
def test_what_is_no_text_is_named(file: Path, data: bytes, message: str) -> None:
    file.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_lines(file)
    assert str(caught.value).startswith(str(file)) and message in str(caught.value)


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable text file: Is a directory"):
        read_lines(tmp_path)


def test_stray_bytes_are_counted_and_kept(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_bytes(b"1.mp4\tfear\tcaf\xe9\n2.mp4\tfear\tplain\n")
    with caplog.at_level(logging.WARNING):
        lines = read_lines(file, stray_bytes=True)
    assert lines == ["1.mp4\tfear\tcaf\udce9", "2.mp4\tfear\tplain"]
    assert caplog.messages == [f"{file}: 1 lines hold bytes that are not UTF-8; only free text may"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label,path\na,b,c\n", "line 1: column 'path' occurs twice"),
        ("path,label,more\n", "line 1: unknown column 'more', expected the header path,label[,split]"),
        ("path\na\n", "line 1: column 'label' is missing"),
        ("", "line 1: column 'path' is missing"),
        ("path,label\na\n", "line 2: expected 2 fields, got 1"),
        ("path,label\na,b,c\n", "line 2: expected 2 fields, got 3"),
        ('path,label\n"a,b\nc,d\n', "not a row of a csv file"),
        (f"path,label\n{'x' * 200_000},b\n", "line 2: not a row of a csv file: field larger than field limit"),
    ],
)
def test_wrong_tables(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        read_table(file, required=("path", "label"), optional=("split",))
    assert str(file) in str(caught.value) and message in str(caught.value)


def test_tables_know_their_lines(file: Path) -> None:
    file.write_text('label, path\nglad,"a, b"\n\n,c\n')
    assert read_table(file, required=("path", "label")) == [
        (2, {"label": "glad", "path": "a, b"}),
        (4, {"label": "", "path": "c"}),
    ]


def test_columns_without_header(file: Path) -> None:
    file.write_text("a/1 Happy\n\n  b/2   Sad \n")
    assert read_columns(file, ("path", "label")) == [(1, ("a/1", "Happy")), (3, ("b/2", "Sad"))]
    file.write_text("a/1 Happy\nb/2 very Sad\n")
    with pytest.raises(DataError, match=r"list.csv: line 2: expected 2 fields \(path label\), got 3"):
        read_columns(file, ("path", "label"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("./a//b/", "a/b"),
        ("a b/ä 表.jpg", "a b/ä 表.jpg"),
        ("..a/b..", "..a/b.."),
        ("a:b", "a:b"),
    ],
)
def test_inner_paths(text: str, expected: str) -> None:
    assert inner_path(text, "here") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the path is empty"),
        ("/a", "absolute path"),
        ("//host/a", "absolute path"),
        ("C:/a", "absolute path"),
        ("c:\\a", "absolute path"),
        ("\\\\host\\a", "absolute path"),
        ("a\\b", "backslashes"),
        ("../a", "leads out of its folder"),
        ("a/../../b", "leads out of its folder"),
        (".", "names no file"),
        ("a\x1bb", "control characters"),
        ("a\nb", "control characters"),
        ("a\u2028b", "control characters"),
        ("caf\udce9", "not UTF-8"),
    ],
)
def test_paths_that_lead_elsewhere(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        inner_path(text, "here")
    assert str(caught.value).startswith("here: ") and message in str(caught.value)
    assert str(caught.value).isprintable()


def test_classes_by_name_and_number() -> None:
    assert class_name("GLAD", ("glad", "sad"), "here", str.lower) == "glad"
    assert class_number("2", ("glad", "sad"), "here", first=1) == "sad"
    for wrong in ("0", "3", "-1", "1.0", "", "\u0661", "9" * 5000):
        with pytest.raises(DataError, match=r"here: unknown label .* expected 1 to 2"):
            class_number(wrong, ("glad", "sad"), "here", first=1)
    with pytest.raises(DataError, match="here: unknown label 'mad', expected one of glad, sad"):
        class_name("mad", ("glad", "sad"), "here", str.lower)


def label_file(path: Path, *names: str) -> LabelFile:
    entries = tuple(Entry(line, name, "glad") for line, name in enumerate(names, start=2))
    return LabelFile(path=path, split="train", entries=entries, field="clip")


def test_repeats_and_overlaps(file: Path) -> None:
    refuse_repeats(label_file(file, "1", "2"))
    with pytest.raises(DataError, match=r"list.csv: line 3: field 'clip': '01' is listed twice"):
        refuse_repeats(label_file(file, "1", "01"), lambda name: name.lstrip("0"))
    refuse_overlap(label_file(file, "1"), label_file(file, "2"))
    with pytest.raises(DataError, match=r"list.csv: line 3: field 'clip': '1' is in the train part too"):
        refuse_overlap(label_file(file, "1"), label_file(file, "2", "1"))


def test_missing_media_are_counted_and_some_named(file: Path) -> None:
    refuse_missing(file, [], 9)
    with pytest.raises(DataError, match=r"list.csv: line 4: field 'clip': 4 of 9 media do not exist: a, b, c, \.\.\."):
        refuse_missing(file, [(4, "a"), (5, "b"), (6, "c"), (8, "d")], 9, "clip")


def test_identities_lie_in_or_beside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert read_identities(tmp_path / "data") == {}
    (tmp_path / "identities.csv").write_text('sample,identity\n"a, b",anna\n')
    assert read_identities(tmp_path / "data") == {"a, b": "anna"}
    (tmp_path / "data/identities.csv").write_text("sample,identity\nx\n")
    with pytest.raises(DataError, match=r"data/identities.csv: line 2: expected 2 fields"):
        read_identities(tmp_path / "data")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(fold=2), "--fold 2: dataset made has no folds"),
        (Request(media="x"), "--media x: dataset made has its media in one place only"),
    ],
)
def test_options_that_a_dataset_cannot_serve(request_: Request, message: str) -> None:
    Request().refuse("made", "fold", "media")
    with pytest.raises(UsageError, match=message):
        request_.refuse("made", "fold", "media")
