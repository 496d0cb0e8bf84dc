"""Help, version and completion answer at once: nothing that takes seconds to import is imported for them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import s4d
from s4d.cli import main
from s4d.cli.app import COMMANDS, GROUPS

ROOT = Path(__file__).parents[3]
# pydantic is no part of it: typer itself takes it, where it is installed, for the parameters of a command.
HEAVY = (
    *("torch", "numpy", "scipy", "sklearn", "pyarrow", "matplotlib", "deepspeed", "triton", "xformers", "nvidia"),
    *("PIL", "av", "cv2", "yaml", "jinja2", "safetensors", "einops", "onnx", "engine", "kernels"),
)
FOUND = f"import sys; sys.stderr.write(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
HELP_OF_ALL = """
import contextlib, io, json, sys
from s4d.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    failed = [words for words in json.loads(sys.argv[1]) if main([*words, "--help"]) != 0]
assert not failed, failed
"""


def loaded_by(code: str, *arguments: str) -> list[str]:
    """Which heavy packages a process has loaded after `code`."""
    command = [sys.executable, "-c", f"{code}\n{FOUND}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr.split()


def test_importing_the_package_is_light() -> None:
    assert loaded_by("import s4d, sys; assert not {'typer', 'pydantic'} & set(sys.modules)") == []
    assert loaded_by("from s4d.cli.app import build_app; build_app()") == []


def test_help_of_every_command_is_light() -> None:
    groups = [[group] for group in GROUPS]
    commands = [[name] for name in COMMANDS] + [[group, name] for group, (_, rows) in GROUPS.items() for name in rows]
    assert loaded_by(HELP_OF_ALL, json.dumps([[], *groups, *commands])) == []


def test_what_is_heavy_would_be_noticed() -> None:
    assert loaded_by("import yaml") == ["yaml"]


def test_version_is_the_packages_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"s4d {s4d.__version__}\n"
