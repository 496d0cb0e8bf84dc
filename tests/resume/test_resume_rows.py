"""The rows about continued runs have the cases they say, and notice what they are there to find."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "scorecard"):
    sys.path.append(str(folder))

import row_drift  # noqa: E402 (found through the lines above)
import row_every_step  # noqa: E402
import row_other_ranks  # noqa: E402
import row_rerun  # noqa: E402
import row_sample_order  # noqa: E402


@pytest.mark.parametrize(
    ("name", "cases"),
    [
        ("R10", row_every_step.CASES),
        ("R12", len(row_other_ranks.CASES)),
        ("R14", row_rerun.CASES),
        ("R15", len(row_drift.EDITS)),
    ],
)
def test_a_row_has_all_its_cases(name: str, cases: int) -> None:
    assert importlib.import_module("rows").BY_NAME[name].target == cases


def test_no_case_is_tried_twice() -> None:
    assert len(set(row_every_step.KINDS)) == len(row_every_step.KINDS)
    assert sorted(row_every_step.ORDER) == list(range(1, row_every_step.STEPS))
    assert len(set(row_other_ranks.CASES)) == len(row_other_ranks.CASES)
    assert len({(edit.overrides, edit.refused, edit.accepted, edit.ranks) for edit in row_drift.EDITS}) >= 60


@pytest.fixture
def listed(tmp_path: Path) -> tuple[Any, list[Any]]:
    """A made-up run and its first steps."""
    row_sample_order.prepare(tmp_path)
    rng = row_sample_order.generator(5, "listed")
    part = row_sample_order.Part(start=0, end=row_sample_order.STEPS, world_size=2, accumulation=2)
    config = row_sample_order._config(rng, tmp_path, [part])
    return config, list(row_sample_order._listed(config, [part]))


def test_an_order_that_leaves_out_or_repeats_is_noticed(listed: tuple[Any, list[Any]]) -> None:
    config, steps = listed
    row_sample_order._assert_complete(config, steps)
    for wrong in (steps[1:], [*steps[:2], steps[1], *steps[2:]], [steps[0], *steps[2:]]):
        with pytest.raises(AssertionError):
            row_sample_order._assert_complete(config, wrong)


def test_another_draw_is_noticed(listed: tuple[Any, list[Any]]) -> None:
    _, steps = listed
    source = next(index for index, records in enumerate(steps[0]) if len(records) > 1)
    swapped = [[*steps[0]], *steps[1:]]
    swapped[0][source] = steps[0][source][::-1]
    with pytest.raises(AssertionError, match=f"step 0, source {source} differ"):
        row_sample_order._assert_equal(steps, swapped, [])
