"""The cases of the fuzzed rows are what they should be: the same number makes the same damage, and all are tried."""

from __future__ import annotations

import importlib
import types
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture
def fuzz_modules(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.syspath_prepend(HERE.parent / "scorecard")
    names = ("rows", "fuzz_files", "fuzz_bytes", "fuzz_confusion")
    return types.SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def test_the_same_number_makes_the_same_damage(tmp_path: Path, fuzz_modules: types.SimpleNamespace) -> None:
    fuzz_modules.fuzz_files.write_whole(tmp_path)
    for name, _, content in fuzz_modules.fuzz_files.whole(tmp_path):
        has_parts = name.endswith((".mp4", ".mkv", ".webm", ".avi", ".jpg", ".png", ".webp"))
        assert not has_parts or len(fuzz_modules.fuzz_bytes.parts_of(content)) > 1, name
        made = [fuzz_modules.fuzz_bytes.damaged(content, np.random.default_rng([1, case])) for case in (1, 1, 2)]
        assert made[0] == made[1] != made[2]


def test_the_row_of_foreign_files_runs_all_of_them(fuzz_modules: types.SimpleNamespace) -> None:
    assert fuzz_modules.rows.BY_NAME["R25"].target == fuzz_modules.fuzz_confusion.COUNT
