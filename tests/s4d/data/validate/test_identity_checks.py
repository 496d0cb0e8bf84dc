"""Entries of `identities.csv` that name no row of the manifest are counted and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from s4d.data.manifest_io import write_manifest
from s4d.data.validate.identities import check_identities
from s4d.data.validate.run import validate_manifest

Make = Callable[..., object]


def test_strangers_are_counted_and_the_first_named(make_row: Make, make_subject: Make, tmp_path: Path) -> None:
    table = tmp_path / "identities.csv"
    strangers = [f"gone{number}.jpg" for number in range(7)]
    names = ["by-id", "by/path.jpg", *strangers]
    table.write_text("sample,identity\n" + "".join(f"{name},anna\n" for name in names))
    rows = [make_row("one.jpg", sample_id="by-id"), make_row("by/path.jpg", sample_id="other")]
    (finding,) = check_identities(make_subject(rows, root=tmp_path))
    assert (finding.severity, finding.code, finding.file) == ("warning", "identities", str(table))
    assert finding.text.startswith("7 of 9 entries match no row of the manifest: 'gone0.jpg', 'gone1.jpg', ")
    assert finding.text.endswith(", ...")


@pytest.mark.parametrize("text", ["", "sample,identity\na.jpg,anna\nb.jpg,\n"])
def test_nothing_to_say(text: str, make_row: Make, make_subject: Make, tmp_path: Path) -> None:
    """No table, or one whose only stranger has no identity."""
    (tmp_path / "data").mkdir()
    if text:
        (tmp_path / "identities.csv").write_text(text)
    assert not list(check_identities(make_subject([make_row("a.jpg")], root=tmp_path / "data")))


def test_a_broken_table_is_an_error(make_row: Make, make_subject: Make, tmp_path: Path) -> None:
    (tmp_path / "identities.csv").write_text("sample,identity\na.jpg,anna\na.jpg,bert\n")
    (finding,) = check_identities(make_subject([make_row("a.jpg")], root=tmp_path))
    assert (finding.severity, finding.code) == ("error", "identities")
    assert finding.text.startswith(f"{tmp_path / 'identities.csv'}: line 3: field 'sample': 'a.jpg' has two identities")


def test_the_command_reports_it(make_row: Make, make_subject: Make, tmp_path: Path) -> None:
    (tmp_path / "identities.csv").write_text("sample,identity\nstranger,anna\n")
    manifest = make_subject([make_row("a.jpg")], root=tmp_path).manifest
    write_manifest(manifest, tmp_path / "made.csv")
    found = validate_manifest(tmp_path / "made.csv", workers=1)
    assert [item.text for item in found.of("identities")] == ["1 of 1 entries match no row of the manifest: 'stranger'"]
    assert "stranger" in json.dumps(found.document())
