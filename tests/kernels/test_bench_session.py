"""What a benchmark run checks, times and writes down, on ops of a few values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.bench.ceiling import measure_ceiling
from kernels.bench.gate import SLACK, Expected
from kernels.bench.memory import measure_memory
from kernels.bench.ops import OPS
from kernels.bench.records import PHASES, AbsentError, Case, Op, Peer, Run
from kernels.bench.session import Findings, Options, run_ops
from kernels.bench.timing import quantile, time_interleaved
from kernels.launch import Work

CPU = torch.device("cpu")
CEILING = {"matmul_float32": 1e9, "matmul_bfloat16": 1e9, "copy": 1e9}
WORK = (Work(flops=100.0, bytes=10.0),)


def scaled(factor: float) -> Callable[[Tensor], Run]:
    """A peer that multiplies by ``factor`` where 2 is right."""

    def build(x: Tensor) -> Run:
        leaf = x.clone().requires_grad_()
        return Run(
            forward=lambda: (leaf * factor,),
            leaves=(leaf,),
            upstream=(torch.ones_like(leaf),),
            results=lambda outputs, gradients: {"output": outputs[0], "d_x": gradients[0]},
        )

    return build


def refused(x: Tensor) -> Run:
    raise AbsentError("not on this machine")


def broken(x: Tensor) -> Run:
    raise RuntimeError("cannot be\nloaded")


def op_of(*peers: Peer) -> Op:
    """Doubling, with the first peer as the automatic choice."""
    case = Case(
        name="small",
        op="double",
        inputs=lambda device, dtype: torch.randn(5, 3, dtype=dtype),
        floors=lambda dtype: dict.fromkeys(PHASES, WORK),
        defaults=frozenset({"cpu"}),
        axes={"tokens": 5},
        dtypes={"cpu": (torch.float32,)},
    )
    return Op(
        name="double",
        cases={"small": case},
        peers=lambda case: peers,
        expected=lambda x, dtype: {"output": x.to(dtype) * 2, "d_x": torch.full_like(x, 2, dtype=dtype)},
        automatic=lambda x: peers[0].name,
    )


def run(*peers: Peer, **options: Any) -> Findings:
    return run_ops([op_of(*peers)], Options(device=CPU, repeats=3, **options), CEILING)


def test_rows_hold_times_ratios_and_shares() -> None:
    ours = Peer(name="ours", build=scaled(2.0), backend=True, rival=False)
    findings = run(ours, Peer(name="theirs", build=scaled(2.0)))
    assert [(row["peer"], row["phase"]) for row in findings.rows] == [
        (peer, phase) for peer in ("ours", "theirs") for phase in PHASES
    ]
    row = findings.rows[2]
    assert row["automatic"] and row["backend"] and not row["rival"] and row["repeats"] == 3
    assert row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
    assert row["roofline_ms"] == pytest.approx(1e3 * 100 / 1e9)
    assert row["roofline_share"] == pytest.approx(row["roofline_ms"] / row["median_ms"])
    assert row["flops_per_second"] == pytest.approx(100 / row["median_ms"] * 1e3)
    assert row["best_peer"] == "theirs" and set(row["ratios"]) == {"theirs"}
    assert row["ratio_to_best"] == pytest.approx(findings.rows[5]["median_ms"] / row["median_ms"])
    assert findings.rows[5]["ratio_to_best"] is None, "our own rows are no rivals"
    assert row["check"]["passed"] and not findings.absent and not findings.failures


def test_a_wrong_backend_is_not_timed() -> None:
    findings = run(
        Peer(name="ours", build=scaled(2.001), backend=True),
        Peer(name="theirs", build=scaled(2.0)),
        Peer(name="also wrong", build=scaled(-2.0)),
    )
    assert {row["peer"] for row in findings.rows} == {"theirs"}
    assert [failure["peer"] for failure in findings.failures] == ["ours", "also wrong"]
    assert "output" in findings.failures[0]["reason"] and "FAILED" in findings.failures[0]["reason"]
    assert findings.is_wrong
    assert not run(Peer(name="theirs", build=scaled(-2.0))).is_wrong, "a wrong library is listed, and no fault of ours"


def test_who_cannot_run_is_listed_with_the_reason() -> None:
    findings = run(
        Peer(name="here", build=scaled(2.0)),
        Peer(name="elsewhere", build=refused),
        Peer(name="library", build=broken),
        Peer(name="ours", build=broken, backend=True),
    )
    assert {item["peer"]: item["reason"] for item in findings.absent} == {
        "elsewhere": "not on this machine",
        "library": "RuntimeError: cannot be",
    }
    assert findings.failures[0]["peer"] == "ours" and findings.is_wrong


def test_a_choice_that_breaks_does_not_stop_the_run() -> None:
    def choose(x: Tensor) -> str | None:
        raise RuntimeError("no choice")

    op = replace(op_of(Peer(name="theirs", build=scaled(2.0))), automatic=choose)
    findings = run_ops([op], Options(device=CPU, repeats=1), CEILING)
    assert findings.rows and findings.failures[0]["reason"] == "RuntimeError: no choice" and findings.is_wrong


def test_peers_are_picked_by_pattern_or_limited_by_the_case() -> None:
    peers = (Peer(name="one", build=scaled(2.0)), Peer(name="other", build=scaled(2.0)))
    assert {row["peer"] for row in run(*peers, peers=("o*r",)).rows} == {"other"}
    op = op_of(*peers)
    limited = replace(op, cases={"small": replace(op.cases["small"], peers=frozenset({"one"}), peers_reason="why")})
    findings = run_ops([limited], Options(device=CPU, repeats=1), CEILING)
    assert {row["peer"] for row in findings.rows} == {"one"}
    assert findings.absent[0]["peer"] == "other" and findings.absent[0]["reason"] == "why"


def test_a_library_may_round_more_often_and_a_backend_may_not() -> None:
    x = torch.randn(64, 8)
    expected = Expected({"y": x.double()}, {"y": x}, {})
    near, far = ({"y": x * (1 + share * 2e-6)} for share in (0.6 * SLACK, 5 * SLACK))
    assert expected.judge(near, torch.float32, backend=False).usable
    assert not expected.judge(near, torch.float32, backend=False).passed
    assert not expected.judge(near, torch.float32, backend=True).usable
    assert not expected.judge(far, torch.float32, backend=False).usable


@pytest.mark.parametrize(
    "result", [{"y": torch.full((64, 8), torch.nan)}, {"y": torch.zeros(63, 8)}, {"z": torch.zeros(64, 8)}, {}]
)
def test_a_result_that_is_missing_or_not_finite_fails(result: dict[str, Tensor]) -> None:
    x = torch.randn(64, 8)
    assert not Expected({"y": x.double()}, {"y": x}, {}).judge(result, torch.float32, backend=False).usable


def test_every_round_calls_every_peer_once() -> None:
    calls: list[str] = []

    def noting(name: str) -> Run:
        def forward() -> tuple[Tensor, ...]:
            calls.append(name)
            return (torch.zeros(1),)

        return Run(forward=forward, leaves=(), upstream=(), results=lambda outputs, gradients: {})

    timings = time_interleaved({name: noting(name) for name in "abc"}, repeats=3)
    assert [sorted(calls[i : i + 3]) for i in range(0, 12, 3)] == [["a", "b", "c"]] * 4
    assert all(len(timing.seconds["forward"]) == 3 and "both" not in timing.seconds for timing in timings.values())
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2.0


def test_memory_counts_what_is_kept_and_the_peak() -> None:
    x = torch.randn(1000, requires_grad=True)
    size = x.numel() * x.element_size()
    exp = Run(
        forward=lambda: (x.sin().exp().sum(),),
        leaves=(x,),
        upstream=(torch.ones(()),),
        results=lambda outputs, gradients: {},
    )
    memory = measure_memory(exp, CPU)
    assert size <= memory.held < 1.1 * size, "exp keeps its result; sin keeps its input alone"
    assert 2 * size <= memory.peak <= 4.1 * size


def test_ceiling_names_every_dtype() -> None:
    ceiling = measure_ceiling(CPU, (torch.float32, torch.bfloat16), quick=True)
    assert set(ceiling) == {"matmul_float32", "matmul_bfloat16", "copy"} and min(ceiling.values()) > 0


@pytest.mark.parametrize("op", [name for name in OPS if name not in ("tile_map", "moae_plan")])
def test_all_peers_of_an_op_agree(op: str) -> None:
    findings = run_ops([OPS[op]], Options(device=CPU, cases=("tiny",), repeats=1), CEILING)
    assert not findings.failures
    assert {row["dtype"] for row in findings.rows} == {"float32", "bfloat16"}
    for dtype in ("float32", "bfloat16"):
        automatic = {row["peer"] for row in findings.rows if row["automatic"] and row["dtype"] == dtype}
        assert len(automatic) == 1
    assert all(item["reason"] for item in findings.absent)
    assert "reference" not in {row["peer"] for row in findings.rows}


def test_tiles_are_peers_on_request() -> None:
    for op, count in (("attention", 4), ("moae", 3)):
        options = Options(
            device=CPU, cases=("tiny",), dtypes=(torch.float32,), repeats=1, peers=("triton[[]*",), tiles=True
        )
        assert len(run_ops([OPS[op]], options, CEILING).absent) == count
        assert not run_ops([OPS[op]], replace(options, tiles=False), CEILING).absent


def test_a_run_is_wrapped_in_both_directions() -> None:
    entered: list[str] = []

    @contextmanager
    def noting() -> Iterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    wrapped = replace(scaled(2.0)(torch.ones(3)), around=noting)
    wrapped.backward(wrapped.outputs())
    assert entered == ["in", "out", "in", "out"]


@pytest.mark.parametrize("pattern", ["t576", "t576_capacity"])
def test_routing_plans_are_timed_forward_alone(pattern: str) -> None:
    findings = run_ops([OPS["moae_plan"]], Options(device=CPU, cases=(pattern,), repeats=1), CEILING)
    assert {row["phase"] for row in findings.rows} == {"forward"}
    assert "portable" in {row["peer"] for row in findings.rows} and not findings.failures


def test_tile_map_needs_a_gpu_and_says_so() -> None:
    findings = run_ops([OPS["tile_map"]], Options(device=CPU, cases=("new_lengths",), repeats=1), CEILING)
    assert not findings.rows and len(findings.absent) == 4


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_all_peers_of_an_op_agree_on_a_gpu(op: str) -> None:
    cases = {"tile_map": ("new_lengths",), "moae_plan": ("t576*",)}.get(op, ("tiny",))
    options = Options(device=torch.device("cuda"), cases=cases, repeats=2)
    findings = run_ops([OPS[op]], options, CEILING)
    assert not findings.failures and findings.rows
    assert {row["method"] for row in findings.rows} <= {"graph", "events"}
