"""Completion in shells, asked in their own protocol."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from s4d.cli import main
from s4d.shipped_configs import SHIPPED


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Calls `s4d` with the variables that a shell sets for completion; returns what it says."""

    def ask(kind: str, **variables: str) -> str:
        monkeypatch.chdir(SHIPPED.parent)
        monkeypatch.setattr(sys, "argv", ["s4d"])
        for name, value in {"_S4D_COMPLETE": kind, **variables}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    return ask


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("s4d che", ["checkpoint"]),
        ("s4d checkpoint export x --to hf", ["hf-videomae"]),
        ("s4d train --config configs/pretrain/d", ["configs/pretrain/demo.yaml"]),
        ("s4d config show configs/finetune/dem", ["configs/finetune/demo.yaml"]),
        ("s4d data prepare ferp", ["ferplus", "ferplus_votes"]),
        ("s4d data prepare dfew --lab", ["--labels"]),
        # A name of the reader's own: the shell completes files.
        ("s4d train --config my-own", []),
    ],
)
def test_words_options_choices_and_configurations(asked: Callable[..., str], line: str, expected: list[str]) -> None:
    place = str(len(line.split(" ")) - 1)
    assert asked("complete_bash", COMP_WORDS=line, COMP_CWORD=place).split() == expected


def test_zsh_and_fish_are_answered_too(asked: Callable[..., str]) -> None:
    assert "checkpoint" in asked("complete_zsh", _TYPER_COMPLETE_ARGS="s4d check")
    words = {"_TYPER_COMPLETE_ARGS": "s4d checkpoint ", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    offered = asked("complete_fish", **words).splitlines()
    assert [line.split("\t")[0] for line in offered] == ["import", "export", "inspect", "verify", "consolidate"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_can_read_its_script(asked: Callable[..., str], shell: str) -> None:
    script = asked(f"source_{shell}")
    assert "_S4D_COMPLETE" in script and "s4d" in script
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, timeout=20)
        assert checked.returncode == 0, checked.stderr


def test_torch_is_not_imported_for_it() -> None:
    variables = {"_S4D_COMPLETE": "complete_bash", "COMP_WORDS": "s4d data prepare dfe", "COMP_CWORD": "3"}
    code = "import atexit, sys; atexit.register(lambda: print(*({'torch', 'numpy'} & set(sys.modules))));"
    code += "from s4d.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **variables}
    )
    assert (done.returncode, done.stdout.split()) == (0, ["dfew"])
