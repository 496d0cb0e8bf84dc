"""Versions of other packages: training starts with those that fit, and with no others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from unittest import mock

import numpy as np
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from engine.dependencies import NEEDED, find_unfit

ROOT = Path(__file__).resolve().parents[2]
ENTRY = ROOT / "engine/train.py"
NO_VERSIONS = ("", "unknown", "None", "v", "-1", "git", "٣.1")
NUMBERS = (0, 1, 2, 9, 10, 11, 13, 18, 19, 20, 21, 99)


def prepare(folder: Path) -> None:
    """This machine itself must pass."""
    assert find_unfit() == []


def run(number: int, folder: Path) -> str:
    """Case `number`: one package says another version, or is not there; refused ones also at the start of training."""
    draw = np.random.default_rng([29, number])
    package = sorted(NEEDED)[number % len(NEEDED)]
    kind = int(draw.integers(8))
    found = None if kind == 0 else str(draw.choice(NO_VERSIONS)) if kind == 1 else _version(draw)
    oldest, newest = NEEDED[package]
    wanted = SpecifierSet(f">={oldest}" + (f",<{newest}" if newest else ""))
    # Builds of a vendor before a release count as the release.
    fits = kind > 1 and Version(str(found)).release is not None and Version(Version(str(found)).base_version) in wanted
    problems = _problems(package, found)
    assert bool(problems) != fits, f"{package} {found}: {problems}"
    if fits:
        return "taken"
    (line,) = problems
    assert line.startswith(f"{package}: ") and f"{package}>={oldest}" in line and "pip install" in line, line
    assert found is None or str(found) in line or repr(found) in line, line
    if found is not None:
        _start(folder / f"packages-{number}", package, found, line)
    return "refused"


def _version(draw: np.random.Generator) -> str:
    numbers = [str(draw.choice(NUMBERS)) for _ in range(int(draw.integers(1, 4)))]
    return ".".join(numbers) + str(
        draw.choice(("", "", "", ".post1", "rc1", ".dev20", "+cpu", "a0+vendor.25", "+cu130"))
    )


def _problems(package: str, found: str | None) -> list[str]:
    real = metadata.version

    def fake(name: str) -> str:
        if name != package:
            return real(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    with mock.patch("engine.dependencies.version", fake):
        return find_unfit()


def _start(packages: Path, package: str, found: str, line: str) -> None:
    """The entry point of training leaves at once, with status 2 and that one line."""
    described = packages / f"{package}-0.dist-info"
    described.mkdir(parents=True)
    try:
        (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {found}\n")
        environment = {**os.environ, "PYTHONPATH": str(packages)}
        command = [sys.executable, str(ENTRY), "--config", "none.yaml"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2 and done.stdout == "", (done.returncode, done.stdout)
        assert done.stderr == f"error: {line}\n", done.stderr
    finally:
        shutil.rmtree(packages)
