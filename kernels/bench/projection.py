"""What the kernels should reach on a GPU that is not here: analytic work over stated efficiencies. No measurement.

The limits of the card were measured elsewhere; the shares of them that a kernel reaches are assumptions, each written
beside its row. Masked matrix work inside a tile counts as work here, since the tensor cores do it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kernels.bench import floors
from kernels.bench.goals import GOALS, Goal
from kernels.bench.records import Floors
from kernels.launch import Work
from kernels.varlen import Layout

# Dense bfloat16 FLOP/s of a large product and bytes per second of a large copy.
GPUS: dict[str, dict[str, float]] = {"h200": {"flops": 790e12, "copy": 4.3e12}}
# A kernel inside a graph, from the end of its predecessor to its own first wave.
_LAUNCH_SECONDS = 2e-6
_SIZE = 2
_HEAD_DIM = 64
_WIDTH, _EXPERTS, _HIDDEN, _TOP_K = 768, 8, 192, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """Work of one kernel and the shares of the matrix and copy rates that it is assumed to reach."""

    name: str
    flops: float
    bytes: float
    matrix: float
    copy: float

    def seconds(self, gpu: Mapping[str, float]) -> float:
        """Time at the assumed shares, its launch included."""
        matrix = self.flops / (self.matrix * gpu["flops"])
        return max(matrix, self.bytes / (self.copy * gpu["copy"])) + _LAUNCH_SECONDS

    @property
    def assumption(self) -> str:
        """The shares in words."""
        return f"{self.name}: {self.matrix:.0%} of the matrix rate, {self.copy:.0%} of the copy rate"


@dataclass(frozen=True, kw_only=True, slots=True)
class Projection:
    """One case and phase: its kernels, and the useful work that its speed is stated in."""

    op: str
    case: str
    phase: str
    kernels: tuple[Kernel, ...]
    work: tuple[Work, ...]

    def as_dict(self, gpu: Mapping[str, float]) -> dict[str, object]:
        """Plain values for JSON; every number is projected."""
        seconds = sum(kernel.seconds(gpu) for kernel in self.kernels)
        least = floors.total(self.work)
        limits = {"flops": gpu["flops"], "bytes": gpu["copy"]}
        return {
            "op": self.op,
            "case": self.case,
            "phase": self.phase,
            "projected_ms": seconds * 1e3,
            "roofline_ms": floors.roofline_seconds(self.work, limits) * 1e3,
            "flops_per_second": least.flops / seconds,
            "copy_share": least.bytes / seconds / gpu["copy"],
            "assumptions": [kernel.assumption for kernel in self.kernels],
        }


def _tile_flops(layout: Layout, heads: int) -> float:
    """Forward products of the contained tiles, masked pairs included."""
    flops = 0.0
    for count, length in layout:
        rows = 64 if length <= 64 else 128
        flops += 4.0 * -(-count // (rows // length)) * rows * rows * _HEAD_DIM * heads
    return flops


def _attention(case: str, layout: Layout, heads: int) -> Iterator[Projection]:
    short = tuple(run for run in layout if run[1] <= 128)
    long = tuple(run for run in layout if run[1] > 128)
    work = floors.attention(layout, heads, _HEAD_DIM, _SIZE)
    for phase, factor, matrix, copy, streamed in (
        ("forward", 1.0, 0.50, 0.70, 0.48),
        ("backward", 2.5, 0.40, 0.60, 0.37),
    ):
        kernels = []
        if short:
            least = floors.total(floors.attention(short, heads, _HEAD_DIM, _SIZE)[phase])
            flops = factor * _tile_flops(short, heads)
            kernels.append(Kernel(name="contained", flops=flops, bytes=least.bytes, matrix=matrix, copy=copy))
        if long:
            least = floors.total(floors.attention(long, heads, _HEAD_DIM, _SIZE)[phase])
            kernels.append(Kernel(name="streaming", flops=least.flops, bytes=least.bytes, matrix=streamed, copy=copy))
        yield Projection(op="attention", case=case, phase=phase, kernels=tuple(kernels), work=work[phase])


def _moae(case: str, tokens: int) -> Iterator[Projection]:
    work = floors.moae(tokens, _WIDTH, _EXPERTS, _HIDDEN, _TOP_K, _SIZE)
    row = tokens * _WIDTH * _SIZE
    least = floors.total(work["forward"])
    # Gathered x, pre-activations and one output row per choice, which the combine pass reads again.
    forward = (
        Kernel(name="router", flops=0.0, bytes=row, matrix=0.1, copy=0.80),
        Kernel(name="plan", flops=0.0, bytes=tokens * _TOP_K * 16, matrix=0.1, copy=0.2),
        Kernel(name="experts", flops=least.flops, bytes=least.bytes + row * _TOP_K, matrix=0.50, copy=0.80),
        Kernel(name="combine", flops=0.0, bytes=row * (_TOP_K + 1), matrix=0.1, copy=0.80),
    )
    backward = (
        Kernel(name="expert inputs", flops=least.flops, bytes=least.bytes + row * _TOP_K, matrix=0.45, copy=0.80),
        Kernel(name="expert weights", flops=least.flops, bytes=least.bytes, matrix=0.40, copy=0.80),
        Kernel(name="weight sums", flops=0.0, bytes=8.0 * _EXPERTS * _WIDTH * _HIDDEN * 4, matrix=0.1, copy=0.7),
        Kernel(name="combine", flops=0.0, bytes=row * (_TOP_K + 1), matrix=0.1, copy=0.80),
        Kernel(name="router", flops=0.0, bytes=2.0 * row, matrix=0.1, copy=0.80),
    )
    for phase, kernels in (("forward", forward), ("backward", backward)):
        yield Projection(op="moae", case=case, phase=phase, kernels=kernels, work=work[phase])


def _gemm_like(op: str, case: str, work: Floors, matrix: float) -> Projection:
    kernels = []
    for phase in ("forward", "backward"):
        least = floors.total(work[phase])
        kernels.append(Kernel(name=phase, flops=least.flops, bytes=least.bytes, matrix=matrix, copy=0.70))
    return Projection(op=op, case=case, phase="both", kernels=tuple(kernels), work=work["both"])


def projections() -> Iterator[Projection]:
    """All rows."""
    yield from _attention("mix10_40", ((192, 10), (192, 40)), 12)
    yield from _attention("only10", ((192, 10),), 12)
    yield from _attention("only40", ((192, 40),), 12)
    yield from _attention("len100", ((192, 100),), 6)
    yield from _attention("len800", ((192, 800),), 6)
    yield from _attention("mix100_800", ((192, 100), (192, 800)), 6)
    for tokens in (1600, 12800, 51200):
        yield from _moae(f"t{tokens}", tokens)
    yield _gemm_like("reconstruction", "clips", floors.reconstruction(192 * 760, 1536, 1536, 384, _SIZE), 0.55)
    yield _gemm_like("patch", "clips95", floors.patch(192 * 40, 1536, 768, _SIZE), 0.40)


def document(gpu: str) -> dict[str, object]:
    """Rows and the goals that a projection can speak to, for one of ``GPUS``."""
    limits = GPUS[gpu]
    rows = [projection.as_dict(limits) for projection in projections()]
    return {
        "schema": 1,
        "kind": "projection",
        "note": "computed from analytic work and assumed efficiencies; nothing here was measured on a GPU",
        "gpu": gpu,
        "ceiling": limits,
        "rows": rows,
        "goals": [_goal(goal, rows) for goal in GOALS if goal.device == "cuda"],
    }


def _goal(goal: Goal, rows: list[dict[str, object]]) -> dict[str, object]:
    found = {"row": goal.row, "goal": goal.text, "must": goal.must, "value": None, "state": "absent"}
    row = next((r for r in rows if (r["op"], r["case"], r["phase"]) == (goal.op, goal.case, goal.phase)), None)
    if row is None or goal.measure not in ("tflops", "copy_share"):
        return {**found, "detail": "a ratio between measurements, which no projection gives"}
    value = float(str(row["flops_per_second"])) / 1e12 if goal.measure == "tflops" else float(str(row["copy_share"]))
    state = "projected pass" if value >= goal.must else "projected fail"
    return {**found, "value": value, "state": state, "detail": "projected"}
