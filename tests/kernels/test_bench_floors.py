"""Analytic work against numbers worked out by hand for ViT-B on one H200: 790 TFLOP/s and 4.3 TB/s."""

from __future__ import annotations

import pytest

from kernels.bench import floors
from kernels.bench.projection import GPUS, document, projections
from kernels.bench.records import PHASES
from kernels.varlen import Layout

H200 = {"flops": 790e12, "bytes": 4.3e12}


@pytest.mark.parametrize(
    ("length", "flops", "forward_bytes"),
    [(10, 25.6e3, 5120), (40, 410e3, 20480), (100, 2.56e6, 51200), (800, 164e6, 409600)],
)
def test_attention_of_one_head(length: int, flops: float, forward_bytes: int) -> None:
    work = floors.attention(((1, length),), 1, 64, 2)
    (forward,), (backward,) = work["forward"], work["backward"]
    assert forward.flops == pytest.approx(flops, rel=2e-3)
    assert backward.flops == 2.5 * forward.flops
    assert forward.bytes == forward_bytes
    assert backward.bytes == forward_bytes / 4 * 7


@pytest.mark.parametrize(
    ("layout", "heads", "forward", "backward"),
    [(((192, 10), (192, 40)), 12, 13.8, 24.1), (((192, 100), (192, 800)), 6, 253, 621)],
)
def test_attention_of_a_layer(layout: Layout, heads: int, forward: float, backward: float) -> None:
    work = floors.attention(layout, heads, 64, 2)
    assert floors.roofline_seconds(work["forward"], H200) * 1e6 == pytest.approx(forward, rel=0.01)
    assert floors.roofline_seconds(work["backward"], H200) * 1e6 == pytest.approx(backward, rel=0.01)


@pytest.mark.parametrize(
    ("tokens", "gflop", "forward_us", "backward_us"),
    [(1600, 1.9, 2.5, 5.6), (12800, 15.1, 19, 38), (51200, 60.4, 76, 153)],
)
def test_experts(tokens: int, gflop: float, forward_us: float, backward_us: float) -> None:
    work = floors.moae(tokens, 768, 8, 192, 2, 2)
    assert floors.total(work["forward"]).flops / 1e9 == pytest.approx(gflop, rel=0.02)
    assert floors.roofline_seconds(work["forward"], H200) * 1e6 == pytest.approx(forward_us, rel=0.02)
    assert floors.roofline_seconds(work["backward"], H200) * 1e6 == pytest.approx(backward_us, rel=0.02)


def test_expert_bytes() -> None:
    work = floors.moae(12800, 768, 8, 192, 2, 2)
    assert floors.total(work["forward"]).bytes / 4.3e6 == pytest.approx(12.5, rel=0.02)
    assert floors.total(work["backward"]).bytes / 4.3e6 == pytest.approx(22, rel=0.03)


def test_embedding_and_head() -> None:
    clip, still = floors.patch(40, 1536, 768, 2), floors.patch(10, 768, 768, 2)
    assert floors.total(clip["forward"]).flops == 3072 * 768 * 40
    assert floors.total(still["forward"]).flops == 1536 * 768 * 10
    assert floors.total(clip["backward"]).flops == floors.total(clip["forward"]).flops
    head = floors.reconstruction(760, 1536, 1536, 384, 2)
    assert floors.total(head["forward"]).flops == 3072 * 384 * 760
    assert floors.total(head["both"]).flops == 3 * 3072 * 384 * 760


def test_a_projection_is_never_faster_than_its_floor_and_says_what_it_is() -> None:
    projected = document("h200")
    assert projected["kind"] == "projection"
    for row in (projection.as_dict(GPUS["h200"]) for projection in projections()):
        assert float(str(row["projected_ms"])) > float(str(row["roofline_ms"]))
        assert row["phase"] in PHASES and row["assumptions"]
    states = {goal["state"] for goal in projected["goals"]}  # type: ignore[attr-defined]
    assert states <= {"projected pass", "projected fail", "absent"}
