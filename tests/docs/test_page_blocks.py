"""Every code block of README and manual is run, or listed with the reason and checked as far as that goes."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
from page_blocks import PAGES, ROOT, Block, Command, blocks, commands, inline_code
from page_soundness import UnsoundError, check
from page_table import ABSENT, ADDED, ANYWHERE, QUICK, REPLACED, SHOWN, THERE, is_run
from page_world import PROCESSES

from s4d.config import load
from s4d.errors import UsageError
from s4d.hostfile import read_hostfile

SCRIPTS = [block for block in blocks() if block.kind == "script"]
CONFIGURATIONS = [block for block in blocks() if block.kind == "yaml"]


def place(each: Block | Command) -> str:
    return ":".join(each.key)


def test_pages_are_found() -> None:
    assert len(PAGES) > 25 and len(commands()) > 60
    assert {"commands", "script", "python", "yaml", "directive", "shown"} == {block.kind for block in blocks()}


def test_a_block_that_is_no_command_program_or_configuration_is_listed() -> None:
    assert {block.key for block in blocks() if block.kind == "shown"} == SHOWN.keys()


def test_a_command_that_cannot_be_run_is_listed() -> None:
    assert not [
        command.key for command in commands() if is_run(command) and command.words[0] not in ("s4d", *PROCESSES)
    ]


def test_the_tables_list_nothing_that_no_page_has() -> None:
    keys = {command.key for command in commands() if not command.is_form} | {block.key for block in SCRIPTS}
    assert not THERE.keys() - keys
    used = {row for row in ANYWHERE if any(text.startswith(row) for _, text in keys)}
    assert not ANYWHERE.keys() - used - ABSENT.keys()
    texts = [command.key[1] for command in commands()]
    for pattern in [*(rf"^{re.escape(text)}" for text in QUICK), *(pattern for pattern, _ in ADDED)]:
        assert any(re.search(pattern, text) for text in texts), pattern
    assert not [text for text in REPLACED if not any(text in block.text for block in blocks())]


@pytest.mark.parametrize(
    "test", sorted({row for row in (*ANYWHERE.values(), *THERE.values()) if row.startswith("tests/")})
)
def test_tests_that_run_a_command_exist(test: str) -> None:
    assert "def test_" in (ROOT / test).read_text(encoding="utf-8")


@pytest.mark.parametrize("block", SCRIPTS, ids=place)
def test_scripts_are_shell_and_are_run_somewhere(block: Block) -> None:
    assert block.key in THERE
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    named = re.findall(r"(?:configs|engine)/[\w/]+\.\w+", block.text)
    assert named and all((ROOT / name).is_file() for name in named)


@pytest.mark.parametrize("command", commands(), ids=place)
def test_commands_are_sound(command: Command) -> None:
    check(command.text, form=command.is_form)


def test_commands_inside_lines_are_sound() -> None:
    found = [(page, text) for page, text in inline_code() if re.match(r"(\.venv/bin/)?s4d |make [a-z]", text)]
    assert len(found) > 100
    for page, text in found:
        try:
            check(text, form=True)
        except UnsoundError as error:
            pytest.fail(f"{page}: `{text}`: {error}")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_commands_at_the_head_of_a_configuration_are_sound(path: Path) -> None:
    """K, N, FOLDER and FILE stand for values there."""
    head = re.sub(r"\\\n# +", "", path.read_text(encoding="utf-8").partition("\n\n")[0])
    for line in re.findall(r"^# +((?:s4d|deepspeed) .+)$", head, re.MULTILINE):
        check(re.sub(r"(=|_)[A-Z]\b", r"\g<1>1", line), form=False)


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=place)
def test_configurations_are_whole_and_valid(block: Block, tmp_path: Path) -> None:
    (tmp_path / "page.yaml").write_text(block.text, encoding="utf-8")
    assert load(tmp_path / "page.yaml").name


@pytest.mark.parametrize("block", [block for block in blocks() if block.kind == "python"], ids=place)
def test_python_is_python(block: Block) -> None:
    assert ast.parse(block.text).body


def test_the_hostfile_is_one(tmp_path: Path) -> None:
    (text,) = [block.text for block in blocks() if SHOWN.get(block.key) == "a hostfile"]
    (tmp_path / "hosts").write_text(text, encoding="utf-8")
    assert len(read_hostfile(tmp_path / "hosts")) == 2


@pytest.mark.parametrize(
    ("text", "form", "reason"),
    [
        ("s4d tarin", False, "s4d tarin: no such command"),
        ("s4d bench", False, "a group of commands"),
        ("s4d data prepare folder --out a.csv", False, "Missing parameter: root"),
        ("s4d data prepare folder clips --oot a.csv", False, "No such option: --oot"),
        ("s4d evaluate runs/mine --split tset", False, "'tset' is not one of"),
        ("s4d evaluate runs/mine evaluation.view=5", False, "evaluation.view: unknown key"),
        ("s4d train --config configs/finetune/nope.yaml", False, "no such file in the repository"),
        (
            "deepspeed engine/train.py --config configs/finetune/demo.yaml seed=x",
            False,
            "seed: expected a whole number",
        ),
        ("deepspeed --num_gpu 4 engine/train.py", False, "not an option"),
        ("make dmeo", False, "no such target"),
        ("make science MINUTE=90", False, "no such variable"),
        ("s4d evaluate RUN [--sblit test|val]", True, "no option --sblit"),
        ("s4d evaluate RUN [--split tset|val]", True, "no choice tset"),
        ("s4d config schema FILE", True, "takes no arguments"),
        ("s4d bench nope", True, "no command 'nope'"),
    ],
)
def test_what_is_wrong_with_a_command_is_found(text: str, form: bool, reason: str) -> None:
    with pytest.raises((UnsoundError, UsageError), match=re.escape(reason)):
        check(text, form=form)
