"""Goals against rows made by hand, and the table of goals against the cases and peers that exist."""

from __future__ import annotations

from typing import Any

import pytest

from kernels.bench.goals import BEST, GOALS, Goal, evaluate
from kernels.bench.ops import OPS

CEILING = {"copy": 1e12}


def row(peer: str, milliseconds: float, **more: Any) -> dict[str, Any]:
    values = {
        "op": "moae",
        "case": "t12800",
        "dtype": "bfloat16",
        "phase": "both",
        "peer": peer,
        "median_ms": milliseconds,
        "automatic": False,
        "rival": True,
        "peak_bytes": 100,
        "held_bytes": 100,
        "flops_per_second": 1e12,
        "bytes_per_second": 1e11,
    }
    return {**values, **more}


def outcomes(rows: list[dict[str, Any]], device: str = "cpu") -> dict[str, tuple[str, float | None]]:
    """State and value of each goal by its text."""
    return {o.goal.text: (o.state, o.value) for o in evaluate(rows, CEILING, device, ["moae"])}


def test_speedup_passes_fails_or_is_absent() -> None:
    found = outcomes(
        [row("per_expert", 2.0, automatic=True, rival=False), row("release_loop", 3.2), row("dense_all", 3.0)]
    )
    assert found["moae t12800 bfloat16 both: at least 1.5x release_loop"] == ("pass", pytest.approx(1.6))
    assert found["moae t12800 bfloat16 both: at least 1.8x dense_all"] == ("fail", pytest.approx(1.5))
    assert found["moae t12800 float32 both: at least 1x release_loop"] == ("absent", None)


def test_without_the_automatic_row_or_without_rivals_a_goal_is_absent() -> None:
    text = "moae t12800 bfloat16 both: at least 1.5x release_loop"
    assert outcomes([row("release_loop", 3.0)])[text] == ("absent", None)
    assert outcomes([row("per_expert", 2.0, automatic=True)])[text] == ("absent", None)


def test_rates_and_memory_of_a_gpu() -> None:
    forward = [
        row("triton", 1.0, automatic=True, rival=False, phase="forward", flops_per_second=2e14),
        row("grouped", 1.2, phase="forward"),
        row("grouped_mm", 1.5, phase="forward"),
    ]
    both = [
        row("triton", 1.0, automatic=True, rival=False, held_bytes=10),
        row("release_loop", 9.0, held_bytes=100),
    ]
    found = outcomes([*forward, *both], "cuda")
    assert found["moae t12800 bfloat16 forward: at least 180 TFLOP/s"] == ("pass", pytest.approx(200))
    speedup = "moae t12800 bfloat16 forward: at least 1.3x grouped / grouped_mm"
    assert found[speedup] == ("fail", pytest.approx(1.2)), "compared with the faster of the two"
    held = "moae t12800 bfloat16 both: memory kept for the backward at most 0.15x release_loop"
    assert found[held] == ("pass", pytest.approx(0.1))


def test_copy_share_and_best_peer() -> None:
    place = {"op": "attention", "case": "mix10_40", "phase": "forward"}
    rows = [
        row("triton", 1.0, automatic=True, rival=False, bytes_per_second=6e11, **place),
        row("grouped", 0.5, rival=False, **place),
        row("flex", 1.9, **place),
    ]
    found = {o.goal.text: o for o in evaluate(rows, CEILING, "cuda", ["attention"])}
    share = found["attention mix10_40 bfloat16 forward: at least 50% of the copy rate"]
    assert (share.state, share.value) == ("pass", pytest.approx(0.6))
    best = found["attention mix10_40 bfloat16 forward: at least 1.8x the best peer"]
    assert (best.state, best.detail) == ("pass", "triton against flex")


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.device} {goal.text}")
def test_goals_name_what_exists(goal: Goal) -> None:
    case = OPS[goal.op].cases[goal.case]
    assert goal.device in case.defaults
    assert goal.dtype in [str(dtype).removeprefix("torch.") for dtype in case.dtypes[goal.device]]
    if goal.against != BEST:
        names = {peer.name for peer in OPS[goal.op].peers(case)} | {"torch_varlen", "xformers"}
        assert set(goal.against) <= names


def test_all_rows_of_a_gpu_have_goals() -> None:
    rows = {goal.row for goal in GOALS if goal.device == "cuda"}
    assert rows == {str(number) for number in (*range(1, 13), 14, 15)}
