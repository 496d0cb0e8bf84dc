"""The oldest versions of other packages are those of the package's own description, and cost no import."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from engine import dependencies
from s4d.cli import main
from s4d.cli.doctor_bounded import Facts

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_agrees_with_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = {requirement.name: requirement.specifier for requirement in map(Requirement, project["dependencies"])}
    extras = [name for rows in project["optional-dependencies"].values() for name in rows]
    stated |= {requirement.name: requirement.specifier for requirement in map(Requirement, extras)}
    for package, (oldest, newest) in {**dependencies.NEEDED, **dependencies.OPTIONAL}.items():
        expected = {f">={oldest}"} | ({f"<{newest}"} if newest else set())
        assert {str(specifier) for specifier in stated[package]} == expected, package


def test_nothing_else_is_imported() -> None:
    code = (
        "import engine.dependencies as d, sys; d.require_dependencies();"
        "print([name for name in d.NEEDED if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_doctor_fails_closed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("engine.dependencies.NEEDED", {"torch": ("99.0", None)})
    monkeypatch.setattr("s4d.cli.machine_checks.gather", lambda probes: Facts())
    assert main(["doctor"]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "torch>=99.0 is needed" in said and "pip install" in said


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_of_a_node_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: int
) -> None:
    monkeypatch.setattr("engine.dependencies.NEEDED", {"torch": ("99.0", None), "numpy": ("99.0", None)})
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    with pytest.raises(SystemExit) as left:
        dependencies.require_dependencies()
    assert left.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == (1 if rank == 0 else 0)
