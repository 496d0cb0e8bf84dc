"""The configurations that come with the project: found, listed, named in place of a file that is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s4d.cli import main
from s4d.config import load
from s4d.errors import UsageError
from s4d.shipped_configs import SHIPPED, purpose, shipped_configs, shipped_like


def test_all_are_found_and_say_what_they_are_for() -> None:
    names = {path.relative_to(SHIPPED).as_posix() for path in shipped_configs()}
    assert {"finetune/demo.yaml", "pretrain/demo.yaml"} <= names
    assert all(purpose(path) for path in shipped_configs())


def test_purpose_is_the_first_paragraph_of_the_comment(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("# Two lines\n# of it.\n#\n# Hardware: any.\nname: one\n")
    assert purpose(path) == "Two lines of it."


def test_a_missing_file_is_answered_with_the_one_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^configs/finetune/demo\.yaml: no such file; the one .* is /.*demo\.yaml$"):
        load("configs/finetune/demo.yaml")
    with pytest.raises(UsageError, match=r"^configs/finetune/other\.yaml: no such file$"):
        load("configs/finetune/other.yaml")
    assert shipped_like(Path("demo.yaml")) is None


def test_the_list_as_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "list"]) == 0
    assert "pretrain/demo.yaml" in capsys.readouterr().out
    assert main(["config", "list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert all((Path(document["folder"]) / each["file"]).is_file() for each in document["configurations"])
