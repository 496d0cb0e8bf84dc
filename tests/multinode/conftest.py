"""A rig of three nodes for the tests of this folder, which is on the import path of its own tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "engine", HERE.parent / "scorecard", HERE.parent / "faults"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from rig import Rig, why_impossible  # noqa: E402 (found through the lines above)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A head and `n0`, `n1`, `n2`; skips with the reason where it cannot be built."""
    reason = "needs root" if os.geteuid() else why_impossible()
    if reason:
        pytest.skip(f"no rig of nodes: {reason}")
    with Rig(tmp_path_factory.mktemp("rig"), nodes=3) as rig:
        yield rig
