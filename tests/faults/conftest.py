"""This folder is on the import path of its own tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import trials


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trials.Bench]:
    with trials.Bench(tmp_path_factory.mktemp("bench")) as bench:
        yield bench
