"""The Dockerfile and what goes into an image: hadolint where it is installed, and what the image must be in any case.

No image is built here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    " ".join(line.split())
    for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]
BASES = [line.split()[1] for line in LINES if line.startswith("FROM ")]
FINAL = LINES[max(index for index, line in enumerate(LINES) if line.startswith("FROM ")) :]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BESIDE = Path(sys.executable).parent / "hadolint"
HADOLINT = str(BESIDE) if BESIDE.exists() else shutil.which("hadolint")


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_hadolint_has_nothing_to_say() -> None:
    checked = subprocess.run([str(HADOLINT), str(ROOT / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout


def test_both_stages_stand_on_one_cuda_release_which_is_that_of_torch_and_dali() -> None:
    assert len(BASES) == 2 and len(set(BASES)) == 1
    release = re.fullmatch(r"nvidia/cuda:(\d+)\.(\d+)\.\d+-base-ubuntu24\.04", BASES[0])
    assert release
    installed = " ".join(line for line in LINES if "pip install" in line)
    assert f"whl/cu{release[1]}{release[2]} " in installed and f"dali-cu{release[1]}" in installed


def test_everything_is_installed_in_exact_versions() -> None:
    commands = [part for line in LINES if line.startswith("RUN ") for part in line.split("&&") if "pip install" in part]
    assert commands and all("--constraint constraints.txt" in command for command in commands)
    extras = re.search(r"\.\[(.+?)\]", " ".join(commands))
    assert extras and set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])


def test_it_runs_without_root_and_may_decode_on_the_gpu() -> None:
    assert [line for line in FINAL if line.startswith("USER ")] == ["USER 10001"]
    assert "--uid 10001 " in " ".join(FINAL)
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in " ".join(FINAL)
    assert FINAL[-1] == 'CMD ["s4d", "doctor"]'


def test_the_compilers_that_run_time_needs_are_there_and_no_sources() -> None:
    packages = next(line for line in FINAL if line.startswith("RUN apt-get"))
    assert " gcc " in packages and " python3-dev " in packages, "Triton compiles launchers at run time"
    assert not [line for line in FINAL if line.startswith("COPY") and "--from=build" not in line]


def test_what_is_copied_is_let_through_and_nothing_else_is() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] not in "#"]
    assert rules[0] == "*", "everything is left out unless it is named"
    let_through = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        name for line in LINES if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]
    }
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)
