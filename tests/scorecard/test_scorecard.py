"""A first slice of every row of the scorecard, and the proof that its counting finds what cases do wrong."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

BAD_CASES = """
import ctypes, mmap, subprocess, sys, time
def prepare(folder):
    pass
def run(number, folder):
    if number == 1:
        sys.stderr.write("much to say " * 20_000)
    if number == 2:
        raise KeyError("two")
    if number == 4:
        ctypes.string_at(0)
    if number == 6:
        code = "import os, time; os.setsid(); open('orphan', 'w').write(str(os.getpid())); time.sleep(100)"
        subprocess.Popen([sys.executable, "-c", code], cwd=folder)
        time.sleep(100)
    if number == 8:
        global held
        held = mmap.mmap(-1, 1200 << 20)
        held.write(b"x" * (600 << 20))
        held.write(b"x" * (600 << 20))
    return ("fine", number / 2) if number >= 10 else "fine"
"""


@pytest.fixture
def scorecard(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.syspath_prepend(HERE)
    return importlib.import_module("scorecard")


def names_with(part: str) -> list[str]:
    sys.path.insert(0, str(HERE))
    rows = importlib.import_module("rows").ROWS
    sys.path.remove(str(HERE))
    return [row.name for row in rows if getattr(row, part)]


def run_slice(scorecard: types.ModuleType, folder: Path, name: str, cases: int) -> None:
    """Try the first cases of a row in a scorecard of their own."""
    command = [sys.executable, str(HERE / "scorecard.py"), "--rows", name, "--cases", str(cases), "--minutes", "30"]
    paths = ["--results", str(folder / "totals.json"), "--work", str(folder)]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "totals.json").read_text())[name]["done"] == cases


@pytest.mark.parametrize("name", names_with("quick"))
def test_a_slice_of_a_row(tmp_path: Path, scorecard: types.ModuleType, name: str) -> None:
    run_slice(scorecard, tmp_path, name, scorecard.BY_NAME[name].quick)


@pytest.mark.deep
@pytest.mark.parametrize("name", names_with("deep"))
def test_a_longer_slice_of_a_row(tmp_path: Path, scorecard: types.ModuleType, name: str) -> None:
    run_slice(scorecard, tmp_path, name, scorecard.BY_NAME[name].deep)


def bad_lines(
    scorecard: types.ModuleType, folder: Path, cases: range, *, measured: bool = False, **traits: object
) -> dict[int, dict]:
    """Lines about cases that are bad on purpose, by number."""
    (folder / "bad_cases.py").write_text(BAD_CASES)
    row = bad_row(module="bad_cases", folder=str(folder), measured=measured, **traits)
    lines = list(scorecard.run_cases(row, cases, folder / "work", 200))
    assert [line["case"] for line in lines] == list(cases)
    return {line["case"]: line for line in lines}


def bad_row(*, measured: bool, **traits: object) -> object:
    rows = importlib.import_module("rows")
    measure = rows.Measure(reduce=max, limit=5.0, unit="s") if measured else None
    return rows.Row(**{"name": "R0", "goal": "", "module": "", "target": 2, "measure": measure, **traits})


def test_crashes_hangs_and_tracebacks_are_counted(tmp_path: Path, scorecard: types.ModuleType) -> None:
    lines = bad_lines(scorecard, tmp_path, range(8), case_seconds=5.0)
    failures = {case: line["failure"] for case, line in lines.items() if "failure" in line}
    assert list(failures) == [2, 4, 6]
    assert "KeyError" in failures[2] and "status -11" in failures[4] and "no answer in 5 s" in failures[6]


def test_what_a_hanging_case_started_is_ended_with_it(tmp_path: Path, scorecard: types.ModuleType) -> None:
    bad_lines(scorecard, tmp_path, range(6, 7), case_seconds=5.0)
    orphan = int((tmp_path / "work" / "orphan").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{orphan}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{orphan}").exists()


def test_growth_is_counted(tmp_path: Path, scorecard: types.ModuleType) -> None:
    lines = bad_lines(scorecard, tmp_path, range(7, 10), case_seconds=100.0, small=True)
    failures = {case: line["failure"] for case, line in lines.items() if "failure" in line}
    assert list(failures) == [8] and "grew by" in failures[8]


def test_values_are_measured(tmp_path: Path, scorecard: types.ModuleType) -> None:
    lines = bad_lines(scorecard, tmp_path, range(10, 12), measured=True)
    assert [line["value"] for line in lines.values()] == [5.0, 5.5]
    row = bad_row(measured=True)
    known = {**scorecard.totals_of(row, {}), "done": 2}
    assert scorecard.state_of(row, {**known, "values": [5.0, 4.0]}) == "pass"
    assert scorecard.state_of(row, {**known, "values": [5.0, 5.5]}) == "fail"
    assert scorecard.state_of(row, {**known, "values": [float("nan")]}) == "fail"


def test_totals_go_on_where_they_ended(tmp_path: Path, scorecard: types.ModuleType) -> None:
    row = scorecard.BY_NAME["R25"]
    *_, first = scorecard.advance(row, scorecard.totals_of(row, {}), tmp_path, 100, 5)
    assert (first["done"], scorecard.state_of(row, first)) == (5, "open")
    *_, second = scorecard.advance(row, scorecard.totals_of(row, {"R25": first}), tmp_path, 100, 3)
    assert (second["done"], second["outcomes"]) == (8, {"refused": 8})
