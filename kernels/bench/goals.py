"""What must hold, row by row, and whether the rows of a run hold it.

A goal names a case, a dtype and a phase, and asks of the backend that the op picks by itself: a speed-up over named
peers (over the fastest of those that ran; ``BEST`` is every rival), a share of the measured copy rate, FLOP/s, or a
memory ratio. One without the rows it needs is absent, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
BEST = ("*",)
_FA2 = ("torch_varlen", "sdpa_flash")
_PER_CALL = ("torch_varlen", "sdpa_per_modality", "sdpa_flash", "sdpa_efficient", "sdpa_cudnn")
_GROUPED = ("grouped", "grouped_mm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """``measure``: ``speedup``, ``copy_share``, ``tflops`` (at least ``must``), ``peak`` or ``held`` (at most)."""

    row: str
    device: str
    op: str
    case: str
    dtype: str
    phase: str
    measure: str
    must: float
    against: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The goal in words."""
        rivals = "the best peer" if self.against == BEST else " / ".join(self.against)
        words = {
            "speedup": f"at least {self.must:g}x {rivals}",
            "copy_share": f"at least {self.must:.0%} of the copy rate",
            "tflops": f"at least {self.must:g} TFLOP/s",
            "peak": f"peak memory at most {self.must:g}x {rivals}",
            "held": f"memory kept for the backward at most {self.must:g}x {rivals}",
        }[self.measure]
        return f"{self.op} {self.case} {self.dtype} {self.phase}: {words}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A goal with its ``value`` (None if absent), ``state`` pass, fail or absent, and what it was compared with."""

    goal: Goal
    value: float | None
    state: str
    detail: str

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "row": self.goal.row,
            "goal": self.goal.text,
            "must": self.goal.must,
            "value": self.value,
            "state": self.state,
            "detail": self.detail,
        }


def _gpu(row: str, op: str, case: str, phase: str, measure: str, must: float, *against: str) -> Goal:
    return Goal(
        row=row,
        device="cuda",
        op=op,
        case=case,
        dtype="bfloat16",
        phase=phase,
        measure=measure,
        must=must,
        against=against,
    )


def _cpu(op: str, case: str, dtype: str, measure: str, must: float, *against: str) -> Goal:
    return Goal(
        row="cpu",
        device="cpu",
        op=op,
        case=case,
        dtype=dtype,
        phase="both",
        measure=measure,
        must=must,
        against=against,
    )


GOALS: tuple[Goal, ...] = (
    _gpu("1", "attention", "mix10_40", "forward", "speedup", 1.8, *BEST),
    _gpu("1", "attention", "only10", "forward", "speedup", 3.0, *BEST),
    _gpu("1", "attention", "only40", "forward", "speedup", 1.3, *BEST),
    _gpu("1", "attention", "mix10_40", "forward", "copy_share", 0.50),
    _gpu("2", "attention", "mix10_40", "backward", "speedup", 2.5, *BEST),
    _gpu("2", "attention", "only10", "backward", "speedup", 5.0, *BEST),
    _gpu("2", "attention", "only40", "backward", "speedup", 2.5, *BEST),
    _gpu("2", "attention", "mix10_40", "backward", "copy_share", 0.45),
    _gpu("3", "attention", "len100", "forward", "speedup", 1.0, *BEST),
    _gpu("3", "attention", "len100", "forward", "speedup", 1.2, *_FA2),
    _gpu("3", "attention", "len100", "forward", "copy_share", 0.55),
    _gpu("3", "attention", "len100", "backward", "speedup", 1.5, *BEST),
    _gpu("3", "attention", "len100", "backward", "speedup", 2.0, *_FA2),
    _gpu("3", "attention", "len100", "backward", "copy_share", 0.35),
    _gpu("4", "attention", "len800", "forward", "speedup", 1.1, *_FA2),
    _gpu("4", "attention", "len800", "forward", "tflops", 330),
    _gpu("5", "attention", "len800", "backward", "speedup", 1.1, *_FA2),
    _gpu("5", "attention", "len800", "backward", "tflops", 250),
    _gpu("6", "attention", "mix100_800", "both", "speedup", 1.1, *_PER_CALL),
    _gpu("7", "tile_map", "new_lengths", "forward", "speedup", 20, *BEST),
    _gpu("8", "moae", "t1600", "both", "speedup", 8, "release_loop"),
    _gpu("8", "moae", "t1600", "both", "speedup", 1.0, *BEST),
    _gpu("9", "moae", "t12800", "forward", "speedup", 1.3, *_GROUPED),
    _gpu("9", "moae", "t12800", "forward", "speedup", 1.0, "dense_all"),
    _gpu("9", "moae", "t12800", "forward", "tflops", 180),
    _gpu("10", "moae", "t51200", "forward", "speedup", 1.3, *_GROUPED),
    _gpu("10", "moae", "t51200", "forward", "speedup", 1.0, "dense_all"),
    _gpu("10", "moae", "t51200", "forward", "tflops", 220),
    _gpu("11", "moae", "t12800", "backward", "speedup", 1.2, *BEST),
    _gpu("11", "moae", "t12800", "backward", "tflops", 150),
    _gpu("12", "moae", "t12800", "both", "held", 0.15, "release_loop"),
    _gpu("14", "reconstruction", "clips", "both", "speedup", 1.3, "compiled"),
    _gpu("15", "patch", "clips95", "both", "speedup", 4, "conv3d_ready"),
    _cpu("attention", "mix10_40", "bfloat16", "speedup", 4.0, "sdpa", "sdpa_per_modality"),
    _cpu("attention", "mix10_40", "bfloat16", "speedup", 1.0, "bmm_whole"),
    _cpu("attention", "mix10_40", "float32", "speedup", 1.5, "sdpa"),
    _cpu("attention", "mix100_800_small", "bfloat16", "speedup", 1.3, "sdpa", "sdpa_per_modality"),
    _cpu("attention", "mix100_800_small", "bfloat16", "speedup", 1.0, "bmm_whole"),
    _cpu("attention", "mix100_800_small", "float32", "speedup", 1.0, "sdpa", "bmm_whole"),
    _cpu("moae", "t12800", "bfloat16", "speedup", 1.5, "release_loop"),
    _cpu("moae", "t12800", "float32", "speedup", 1.0, "release_loop"),
    _cpu("moae", "t12800", "bfloat16", "speedup", 1.8, "dense_all"),
    _cpu("moae", "t12800", "float32", "speedup", 1.8, "dense_all"),
    _cpu("patch", "clips95_small", "bfloat16", "speedup", 12, "conv3d_ready"),
    _cpu("patch", "clips95_small", "float32", "speedup", 12, "conv3d_ready"),
    _cpu("reconstruction", "clips_small", "bfloat16", "speedup", 1.8, "eager"),
    _cpu("reconstruction", "clips_small", "float32", "speedup", 1.3, "eager"),
    _cpu("reconstruction", "clips_small", "bfloat16", "peak", 0.25, "eager"),
    _cpu("reconstruction", "clips_small", "float32", "peak", 0.25, "eager"),
)


def evaluate(
    rows: Iterable[Row], ceiling: Mapping[str, float], device: str, ops: Iterable[str] | None = None
) -> list[Outcome]:
    """Outcomes of the goals of a device type, of all ops or of ``ops``."""
    rows = list(rows)
    wanted = [goal for goal in GOALS if goal.device == device and (ops is None or goal.op in ops)]
    return [_outcome(goal, list(_of_goal(rows, goal)), ceiling) for goal in wanted]


def _of_goal(rows: list[Row], goal: Goal) -> Iterator[Row]:
    for row in rows:
        if (row["op"], row["case"], row["dtype"], row["phase"]) == (goal.op, goal.case, goal.dtype, goal.phase):
            yield row


def _outcome(goal: Goal, rows: list[Row], ceiling: Mapping[str, float]) -> Outcome:
    ours = next((row for row in rows if row["automatic"]), None)
    if ours is None:
        return Outcome(goal=goal, value=None, state="absent", detail="the backend picked by itself has no such row")
    name = ours["peer"]
    if goal.measure == "tflops":
        return _verdict(goal, ours["flops_per_second"] / 1e12, ours["flops_per_second"] / 1e12 >= goal.must, name)
    if goal.measure == "copy_share":
        share = ours["bytes_per_second"] / ceiling["copy"]
        return _verdict(goal, share, share >= goal.must, name)
    rivals = [
        row
        for row in rows
        if row is not ours and (row["rival"] if goal.against == BEST else row["peer"] in goal.against)
    ]
    if not rivals:
        return Outcome(goal=goal, value=None, state="absent", detail=f"{name} ran, none of its rivals did")
    if goal.measure == "speedup":
        best = min(rivals, key=lambda row: float(row["median_ms"]))
        ratio = best["median_ms"] / ours["median_ms"]
        return _verdict(goal, ratio, ratio >= goal.must, f"{name} against {best['peer']}")
    key = f"{goal.measure}_bytes"
    least = min(rivals, key=lambda row: int(row[key]))
    ratio = ours[key] / least[key] if least[key] else float("inf")
    return _verdict(goal, ratio, ratio <= goal.must, f"{name} against {least['peer']}")


def _verdict(goal: Goal, value: float, passed: bool, detail: str) -> Outcome:
    return Outcome(goal=goal, value=value, state="pass" if passed else "fail", detail=detail)
