"""The manual as Sphinx builds it, warnings being errors."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.deep,
    pytest.mark.skipif(
        importlib.util.find_spec("sphinx") is None, reason="Sphinx is not installed; `make docs` installs it"
    ),
]


def test_the_manual_builds_without_a_warning(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-n",
        "-E",
        "-q",
        str(ROOT / "docs"),
        str(tmp_path),
    ]
    built = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert built.returncode == 0, built.stderr
    assert "warmup_share" in (tmp_path / "configuration.html").read_text(encoding="utf-8")
    assert "<svg" in (tmp_path / "_images" / "architecture.svg").read_text(encoding="utf-8")
