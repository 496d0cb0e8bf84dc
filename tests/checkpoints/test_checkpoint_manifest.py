"""The manifest says one thing or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint_files import damages, write_checkpoint
from engine.checkpoint_manifest import parse_json, parse_manifest, render_manifest

SUM = "0" * 64
TENSORS = {"w": {"dtype": "F32", "shape": [2, 3], "sha256": SUM}}
ENTRY = {"bytes": 200, "header": SUM, "tensors": TENSORS}


def files_with(**changes: Any) -> dict[str, Any]:
    return {"model.safetensors": {**ENTRY, **changes}}


def test_what_was_rendered_is_read() -> None:
    files = {**files_with(), "state.json": {"bytes": 3, "sha256": SUM}}
    assert parse_manifest(render_manifest(files))["files"] == files


@pytest.mark.parametrize("name", ["../state.json", "/etc/passwd", "a/b", "..", ".", "", "manifest.json", "a\\b", "a\0"])
def test_names_that_lead_elsewhere(name: str) -> None:
    with pytest.raises(ValueError, match="not a plain name"):
        parse_manifest(render_manifest({name: {"bytes": 3, "sha256": SUM}}))


@pytest.mark.parametrize(
    "files",
    [
        files_with(bytes=True),
        files_with(bytes=-1),
        files_with(bytes="200"),
        files_with(bytes=23),
        files_with(header="0" * 63),
        files_with(more=1),
        files_with(tensors=[]),
        files_with(tensors={"w": []}),
        files_with(tensors={"w": {**TENSORS["w"], "dtype": "F8"}}),
        files_with(tensors={"w": {**TENSORS["w"], "dtype": ["F32"]}}),
        files_with(tensors={"w": {**TENSORS["w"], "shape": [2, -3]}}),
        files_with(tensors={"w": {**TENSORS["w"], "shape": [2, 3.0]}}),
        files_with(tensors={"w": {**TENSORS["w"], "shape": [1 << 60, 1 << 60, 1 << 60]}}),
        {"state.json": {"bytes": 3}},
        {"state.json": None},
        [],
    ],
)
def test_wrong_types(files: Any) -> None:
    with pytest.raises(ValueError):
        parse_manifest(render_manifest(files))


def test_keys_given_twice_and_texts_that_are_no_json() -> None:
    with pytest.raises(ValueError, match="key 'a' is given twice"):
        parse_json(b'{"a": 1, "a": 1}')
    for text in (b"[NaN]", b"[Infinity]", b"[" * 100_000, b"\xff", b"{", b"1" * 5000):
        with pytest.raises(ValueError):
            parse_json(text)


def test_any_other_spelling_is_a_change() -> None:
    text = render_manifest(files_with())
    with pytest.raises(ValueError, match="changed after it was written"):
        parse_manifest(json.dumps(json.loads(text)).encode())


def test_all_damages_are_listed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "step-00000001", {}, {"state.json": {"step": 2}, "config.json": {}})
    (tmp_path / "step-00000001/extra").touch()
    (tmp_path / "step-00000001/config.json").unlink()
    found = list(damages(tmp_path / "step-00000001"))
    assert [line.rpartition("/")[2] for line in found] == [
        "extra: not in the manifest",
        "config.json: unreadable: No such file or directory",
        "state.json: of step 2, the folder is named after step 1",
    ]
