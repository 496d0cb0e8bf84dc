"""Scaling studies without ranks: points, what efficiency means, cores of ranks, messages, the picture."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from s4d.analysis.scaling.plot import draw_scaling
from s4d.analysis.scaling.points import MODES, Point, notes_on, points_of, rows_of
from s4d.cli.collectives import bytes_sent, message_bytes, messages_agree
from s4d.cli.local_ranks import available_cores, bound_to, run_ranks, share_cores
from s4d.errors import DataError


def figures(rate: float, **changes: Any) -> dict[str, Any]:
    values = {"device": "cpu", "threads_per_rank": 1, "cores_per_rank": 1, "shares_cores": False}
    return {**values, "samples_per_second": rate, **changes}


def test_a_run_that_two_modes_need_is_measured_once() -> None:
    points = points_of((1, 2), (0, 3), MODES)
    assert len(points) == len(set(points)) == 2 + 4
    assert {point.batches for point in points if point.ranks == 2} == {1, 2}


def test_efficiency_is_of_a_rank_against_the_fewest_ranks() -> None:
    measured = {
        Point(stage=0, ranks=2, batches=1): figures(10.0),
        Point(stage=0, ranks=4, batches=1): figures(15.0, shares_cores=True),
        Point(stage=0, ranks=2, batches=2): figures(12.0),
        Point(stage=0, ranks=4, batches=4): figures(24.0),
    }
    rows = rows_of(measured, MODES)
    found = [(row["mode"], row["ranks"], row["efficiency"], row["against"]) for row in rows]
    assert found == [("strong", 2, 1.0, 2), ("strong", 4, 0.75, 2), ("weak", 2, 1.0, 2), ("weak", 4, 1.0, 2)]
    assert "with 4 ranks there are fewer cores" in notes_on(rows)[0]
    assert "fewer cores" not in notes_on(rows[:1])[0]


def test_cores_are_disjoint_while_they_last() -> None:
    assert share_cores(2, 2, (0, 1, 4, 5)) == [(0, 1), (4, 5)]
    assert share_cores(3, 1, (2, 3)) == [(2,), (3,), (2,)]


def test_a_process_inherits_its_cores_and_this_one_keeps_its_own() -> None:
    before = available_cores()
    with bound_to(before[:1]):
        assert available_cores() == before[:1]
    assert available_cores() == before


def test_ranks_know_their_place_and_their_cores(tmp_path: Path) -> None:
    code = "import os, sys; open(sys.argv[1] + os.environ['RANK'], 'w').write("
    code += "f\"{os.environ['OMP_NUM_THREADS']} {os.environ['WORLD_SIZE']} {sorted(os.sched_getaffinity(0))}\")"
    cores = available_cores()
    run_ranks([sys.executable, "-c", code, f"{tmp_path}/"], 2, limit=60, threads=3, cores=[cores[:1], cores[-1:]])
    found = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert found == [f"3 2 [{cores[0]}]", f"3 2 [{cores[-1]}]"]


@pytest.mark.parametrize(
    ("code", "limit", "message"),
    [
        (
            "import os, sys, time; sys.exit(7) if os.environ['RANK'] == '1' else time.sleep(60)",
            50.0,
            "rank 1 .*status 7",
        ),
        ("import time; time.sleep(60)", 0.2, "2 ranks took more than 0.2 s"),
    ],
)
def test_ranks_that_fail_or_hang_end_all(code: str, limit: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run_ranks([sys.executable, "-c", code], 2, limit=limit)


def test_messages_may_differ_by_padding_alone() -> None:
    assert messages_agree({"all_reduce": 1009.0}, {"all_reduce": 1000.0})
    assert not messages_agree({"all_reduce": 1011.0}, {"all_reduce": 1000.0})
    assert not messages_agree({"all_reduce": 1000.0, "broadcast": 5000.0}, {"all_reduce": 1000.0})
    assert message_bytes({"all_reduce": {"bytes": 16}, "reduce": {"bytes": 2000}}) == {"reduce": 2000}
    assert bytes_sent({"all_reduce": 1000.0, "all_gather_into_tensor": 1000.0}, 4) == 1500.0 + 750.0


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    measured = {
        Point(stage=stage, ranks=ranks, batches=batches): figures(10.0 * ranks)
        for stage in (0, 3)
        for ranks in (1, 2)
        for batches in {1, ranks}
    }
    machine = {"device_name": "a device"}
    document = {"rows": rows_of(measured, MODES), "config": "a.yaml", "machine": machine, "date": "2026-01-01T00:00"}
    draw_scaling(document, tmp_path / "new" / "scaling.png")
    assert os.stat(tmp_path / "new" / "scaling.png").st_size > 10_000
