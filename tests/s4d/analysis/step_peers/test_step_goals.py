"""The arithmetic of the step benchmark: goals, the baseline beside the released figures, comparisons by round."""

from __future__ import annotations

from typing import Any

import pytest

from s4d.analysis.step_peers import goals
from s4d.analysis.step_peers.released import RELEASED, baseline_shares
from s4d.analysis.step_peers.session import comparisons


def row(peer: str, seconds: list[float], *, dtype: str = "bf16", **values: Any) -> dict[str, Any]:
    return {
        "case": "pretrain_8_clips",
        "peer": peer,
        "dtype": dtype,
        "ours": peer in ("engine", "bare"),
        "seconds": seconds,
        "median_ms": 1e3 * sorted(seconds)[len(seconds) // 2],
        "clips_per_second": 8 / sorted(seconds)[len(seconds) // 2],
        "flops_per_second": 0.0,
        "peak_bytes": None,
        **values,
    }


def document(rows: list[dict[str, Any]]) -> dict[str, Any]:
    ceiling = {"matmul_bfloat16": 400e9, "matmul_float32": 100e9}
    matmul = {"bf16": 400e9, "fp32": 100e9}
    return {
        "rows": rows,
        "comparisons": comparisons(rows),
        "baseline": baseline_shares(rows, matmul),
        "ceiling": ceiling,
    }


def outcomes(rows: list[dict[str, Any]], device: str = "cpu") -> dict[str, dict[str, Any]]:
    return {outcome["goal"]: outcome for outcome in goals.evaluate(document(rows), device)}


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that slows down by half in one round changes both sides, and no ratio."""
    (found,) = comparisons([row("engine", [1.0, 2.0, 1.0]), row("release-eager", [1.5, 3.0, 1.5])])
    assert (found["ours"], found["peer"]) == ("engine", "release-eager")
    assert found["speedup"] == found["p20"] == found["p80"] == pytest.approx(1.5)


def test_the_engine_speaks_for_us_if_it_ran() -> None:
    rows = [row("bare", [1.0]), row("engine", [1.1]), row("release-eager", [2.2])]
    assert {(each["ours"], each["peer"]) for each in comparisons(rows)} == {
        ("engine", "bare"),
        ("engine", "release-eager"),
    }
    assert {each["ours"] for each in comparisons(rows[::2])} == {"bare"}
    assert not comparisons(rows[2:])


def test_goals_of_a_cpu() -> None:
    rows = [
        row("engine", [1.0], flops_per_second=250e9, peak_bytes=60),
        row("bare", [0.96]),
        row("release-eager", [1.3], peak_bytes=101),
        row("release-eager", [2.1], dtype="fp32", peak_bytes=90),
    ]
    found = outcomes(rows)
    assert len(found) == sum(goal.device == "cpu" for goal in goals.GOALS)
    at = {key.removeprefix("pretrain_8_clips: "): value for key, value in found.items() if "pretrain" in key}
    fast = at["at least 1.2x release-eager in bf16"]
    assert (fast["value"], fast["state"]) == (pytest.approx(1.3), "pass")
    slow = at["at least 2.2x release-eager in fp32"]
    assert (slow["value"], slow["state"]) == (pytest.approx(2.1), "fail")
    assert at["at least 60% of the rate of a large bf16 product"]["value"] == pytest.approx(0.625)
    assert at["peak memory at most 0.6x release-eager in bf16"]["value"] == pytest.approx(60 / 101)
    assert at["peak memory at most 0.6x release-eager in fp32"]["state"] == "fail"
    overhead = at["the engine at most 5% slower than a bare loop"]
    assert (overhead["value"], overhead["state"]) == (pytest.approx(1 / 0.96 - 1), "pass")
    assert {value["state"] for key, value in found.items() if key.startswith("finetune")} == {"absent"}


def test_goals_without_their_rows_are_absent() -> None:
    details = {each["detail"] for each in outcomes([row("engine", [1.0])]).values() if each["state"] == "absent"}
    assert "release-eager in bf16 did not run" in details and "engine and bare did not both run" in details
    assert {outcome["state"] for outcome in outcomes([], "cuda").values()} == {"absent"}


def test_every_released_row_of_the_gpu_has_a_goal() -> None:
    assert {goal.row for goal in goals.GOALS if goal.device == "cuda"} == {"16", "17", "18", "19", "20", "23"}


def test_the_baseline_is_held_against_the_released_figures() -> None:
    """The released 2.8 clips/s at 360 GFLOP/s are 3.11 at 400; slow and fast machines agree on one figure in fp32."""
    found = document([row("release-eager", [8 / 3.0]), row("release-eager", [8 / 0.7], dtype="fp32")])["baseline"]
    assert [each["dtype"] for each in found] == ["bf16", "fp32"]
    assert found[0]["share"] == pytest.approx(3.0 / (2.8 / 360 * 400)) and found[0]["within"]
    assert found[1]["share"] == pytest.approx(0.7 / (0.7480 * 1.0), rel=1e-3) and found[1]["within"]
    (weak,) = document([row("release-eager", [8 / 2.6])])["baseline"]
    assert weak["share"] < 0.85 and not weak["within"]
    assert {(figure.case, figure.dtype) for figure in RELEASED} == {
        (case, dtype) for case in ("pretrain_8_clips", "finetune_4_clips") for dtype in ("bf16", "fp32")
    }
