"""Files that are missing, empty, of the wrong kind, damaged or changed; and files as they should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from s4d.data.scan.digest import stamp
from s4d.data.validate.files import (
    check_changes,
    check_content,
    check_frame_counts,
    check_presence,
    check_readable,
)

Make = Callable[..., object]


def codes(findings: object) -> list[tuple[str, str, int | None]]:
    return [(item.severity, item.code, item.row) for item in findings]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "a.jpg").write_bytes(b"x" * 10)
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "clip").mkdir()
    return tmp_path


def test_presence(root: Path, make_row: Make, make_subject: Make) -> None:
    rows = [
        make_row("a.jpg"),
        make_row("gone.jpg"),
        make_row("empty.jpg"),
        make_row("clip"),
        make_row("clip2", kind="frames"),
        make_row("bad\0name.jpg"),
    ]
    found = list(check_presence(make_subject(rows, root=root)))
    assert codes(found) == [
        ("error", "missing-file", 2),
        ("error", "empty-file", 3),
        ("error", "wrong-kind", 4),
        ("error", "missing-file", 5),
        ("error", "missing-file", 6),
    ]
    assert found[0].line() == "gone.jpg: row 2: field 'path': cannot be opened: No such file or directory"
    good = make_subject([make_row("a.jpg"), make_row("clip", kind="frames")], root=root)
    assert not list(check_presence(good))


def test_files_changed_after_the_scan(root: Path, make_row: Make, make_probe: Make, make_subject: Make) -> None:
    size, changed = stamp(root / "a.jpg", "image")
    rows = [make_row("a.jpg"), make_row("clip", kind="frames")]
    folder = make_probe("clip", kind="frames", mtime_ns=stamp(root / "clip", "frames")[1])
    fresh = make_subject(rows, [make_probe("a.jpg", size=size, mtime_ns=changed), folder], root=root, scanned=True)
    assert not list(check_presence(fresh))
    (root / "clip/1.jpg").write_bytes(b"x")
    stale = make_subject(rows, [make_probe("a.jpg", size=size + 1, mtime_ns=changed), folder], root=root, scanned=True)
    (finding,) = check_presence(stale)
    assert (finding.severity, finding.code) == ("warning", "scan-outdated")
    assert finding.text.startswith("2 of 2 media")


def test_unreadable_media(make_row: Make, make_probe: Make, make_subject: Make) -> None:
    rows = [make_row("a.jpg"), make_row("b.jpg"), make_row("c.jpg"), make_row("d.jpg")]
    probes = [
        make_probe("a.jpg"),
        make_probe("b.jpg", error="nowhere/b.jpg: cannot decode: broken: badly"),
        make_probe("c.jpg", warnings=3),
    ]
    found = list(check_readable(make_subject(rows, probes)))
    assert codes(found) == [("error", "unreadable", 2), ("warning", "decode-warnings", 3)]
    assert found[0].text == "cannot decode: broken: badly"
    scanned = check_readable(make_subject(rows, probes, scanned=True))
    assert codes(scanned)[-1] == ("warning", "not-scanned", None)


def test_damaged_frames_are_named(make_row: Make, make_probe: Make, make_subject: Make) -> None:
    rows = [make_row("clip", kind="frames"), make_row("none", kind="frames"), make_row("gone", kind="frames")]
    probes = [
        make_probe("clip", kind="frames", error="nowhere/clip/3.jpg: the file is empty"),
        make_probe("none", kind="frames", size=0, error="nowhere/none: no frames (image files) in this folder"),
        make_probe("gone", kind="frames", size=0, mtime_ns=0, error="nowhere/gone: No such file or directory"),
    ]
    found = list(check_readable(make_subject(rows, probes)))
    assert [item.line() for item in found] == [
        "clip: row 1: clip/3.jpg: the file is empty",
        "none: row 2: no frames (image files) in this folder",
    ]


def test_content_that_differs_from_an_earlier_scan(make_row: Make, make_probe: Make, make_subject: Make) -> None:
    pair = (make_probe("a.jpg", sha256="1"), make_probe("a.jpg", sha256="2", size=7))
    changed = make_subject([make_row("a.jpg")], changed={"a.jpg": pair, "other.jpg": pair})
    (finding,) = check_changes(changed)
    assert (finding.severity, finding.code, finding.file) == ("error", "content-changed", "a.jpg")
    assert "(7 bytes, 10 then)" in finding.text
    assert not list(check_changes(make_subject([make_row("a.jpg")])))


def test_frame_counts(make_row: Make, make_probe: Make, make_subject: Make) -> None:
    rows = [make_row(f"{name}.mp4", kind="video", frame_count=20) for name in "abcd"]
    probes = [
        make_probe("a.mp4", frames=20, header_frames=20),
        make_probe("b.mp4", frames=19, header_frames=20),
        make_probe("c.mp4", frames=25, header_frames=25),
        make_probe("d.mp4", frames=None, error="d.mp4: gone"),
    ]
    found = list(check_frame_counts(make_subject(rows, probes)))
    assert codes(found) == [("error", "header-frames", 2), ("error", "frame-count", 2), ("error", "frame-count", 3)]
    assert found[-1].field == "frame_count"


def test_content(make_row: Make, make_probe: Make, make_subject: Make) -> None:
    rows = [make_row(f"{name}.mp4", kind="video") for name in "abcd"]
    probes = [
        make_probe("a.mp4", frames=20),
        make_probe("b.mp4", frames=20, cuts=(5,)),
        make_probe("c.mp4", frames=20, black_frames=20),
        make_probe("d.mp4", frames=20, black_frames=3, variable_rate=True),
    ]
    found = list(check_content(make_subject(rows, probes)))
    assert [(item.code, item.text.split()[0], item.text.split("first: ")[1]) for item in found] == [
        ("scene-cuts", "1", "b.mp4)"),
        ("black", "1", "c.mp4)"),
        ("variable-rate", "1", "d.mp4)"),
    ]
    assert not list(check_content(make_subject(rows[:1], probes[:1])))
