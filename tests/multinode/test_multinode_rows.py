"""Some cases of the rows that are counted on two nodes: faults of ranks and cables, requests to stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import row_nodes_faults
import row_nodes_stop
from rig import Rig

pytestmark = [pytest.mark.launch, pytest.mark.multinode, pytest.mark.deep]


def test_all_cells_are_met_once() -> None:
    cells = {row_nodes_faults.case_of(number) for number in range(len(row_nodes_faults.CASES))}
    assert cells == set(row_nodes_faults.CASES) and len(cells) == 120


def test_faults(rig: Rig, tmp_path: Path) -> None:
    row_nodes_faults.prepare(tmp_path)
    for number in (0, 9):
        row_nodes_faults.run(number, tmp_path)


def test_requests_to_stop(rig: Rig, tmp_path: Path) -> None:
    for number in (6, 12):
        row_nodes_stop.run(number, tmp_path)
