"""A first slice of every row of the scorecard, and the proof that its cases and its counting find something."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
SLICES = {"R23": 800, "R24": 240, "R25": 67, "R26": 300}

BAD_CASES = """
import ctypes, mmap, time
def prepare(folder):
    pass
def run(number, folder):
    if number == 2:
        raise KeyError("two")
    if number == 4:
        ctypes.string_at(0)
    if number == 6:
        time.sleep(100)
    if number == 8:
        global held
        held = mmap.mmap(-1, 1200 << 20)
        held.write(b"x" * (600 << 20))
        held.write(b"x" * (600 << 20))
    return "fine"
"""


@pytest.fixture
def fuzz_modules(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    monkeypatch.syspath_prepend(HERE)
    names = ("scorecard", "fuzz_files", "fuzz_bytes", "fuzz_confusion")
    return types.SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.mark.parametrize("row", SLICES)
def test_a_slice_of_the_scorecard(tmp_path: Path, row: str) -> None:
    command = [sys.executable, str(HERE / "scorecard.py"), "--rows", row, "--cases", str(SLICES[row])]
    paths = ["--results", str(tmp_path / "totals.json"), "--work", str(tmp_path)]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    totals = json.loads((tmp_path / "totals.json").read_text())[row]
    assert totals["done"] == SLICES[row]


def run_bad(scorecard: types.ModuleType, folder: Path, cases: range) -> dict[int, str]:
    """Failures of cases that are bad on purpose, by number."""
    (folder / "bad_cases.py").write_text(BAD_CASES)
    row = scorecard.Row(name="R0", goal="", module="bad_cases", target=10)
    lines = list(scorecard.run_cases(row, cases, folder, 200))
    assert [line["case"] for line in lines] == list(cases)
    return {line["case"]: line["failure"] for line in lines if "failure" in line}


def test_crashes_hangs_and_tracebacks_are_counted(
    tmp_path: Path, fuzz_modules: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(fuzz_modules.scorecard, "HANG_SECONDS", 5.0)
    failures = run_bad(fuzz_modules.scorecard, tmp_path, range(8))
    assert list(failures) == [2, 4, 6]
    assert "KeyError" in failures[2] and "status -11" in failures[4] and "no answer in 5 s" in failures[6]


def test_growth_is_counted(
    tmp_path: Path, fuzz_modules: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(fuzz_modules.scorecard, "HANG_SECONDS", 100.0)
    failures = run_bad(fuzz_modules.scorecard, tmp_path, range(7, 10))
    assert list(failures) == [8] and "grew by" in failures[8]


def test_totals_go_on_where_they_ended(tmp_path: Path, fuzz_modules: types.SimpleNamespace) -> None:
    scorecard = fuzz_modules.scorecard
    row = next(row for row in scorecard.ROWS if row.name == "R25")
    first = scorecard.advance(row, scorecard.totals_of(row, {}), tmp_path, 100, 5)
    assert (first["done"], scorecard.state_of(row, first)) == (5, "open")
    second = scorecard.advance(row, scorecard.totals_of(row, {"R25": first}), tmp_path, 100, 3)
    assert (second["done"], second["outcomes"]) == (8, {"refused": 8})


def test_the_same_number_makes_the_same_damage(tmp_path: Path, fuzz_modules: types.SimpleNamespace) -> None:
    fuzz_modules.fuzz_files.write_whole(tmp_path)
    for name, _, content in fuzz_modules.fuzz_files.whole(tmp_path):
        has_parts = name.endswith((".mp4", ".mkv", ".webm", ".avi", ".jpg", ".png", ".webp"))
        assert not has_parts or len(fuzz_modules.fuzz_bytes.parts_of(content)) > 1, name
        made = [fuzz_modules.fuzz_bytes.damaged(content, np.random.default_rng([1, case])) for case in (1, 1, 2)]
        assert made[0] == made[1] != made[2]


def test_the_row_of_foreign_files_runs_all_of_them(fuzz_modules: types.SimpleNamespace) -> None:
    row = next(row for row in fuzz_modules.scorecard.ROWS if row.name == "R25")
    assert row.target == fuzz_modules.fuzz_confusion.COUNT
