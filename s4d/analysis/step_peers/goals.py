"""What a whole step must reach, and whether a run reaches it. Goals without the rows they need are absent.

The form of an outcome is that of `kernels.bench.goals`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s4d.analysis.step_peers.released import LEAST_SHARE
from s4d.analysis.step_peers.session import main_row

MOST_OVERHEAD = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class StepGoal:
    """``measure``: see ``WORDS``; ``memory``, ``overhead`` and ``milliseconds`` are at most ``must``, others at least.

    ``peer`` and ``dtype`` name the other side of a ratio.
    """

    row: str
    device: str
    case: str
    measure: str
    must: float
    peer: str = "release-eager"
    dtype: str = "bf16"

    @property
    def text(self) -> str:
        """The goal in words."""
        return f"{self.case}: " + WORDS[self.measure].format(must=self.must, other=f"{self.peer} in {self.dtype}")


WORDS = {
    "speedup": "at least {must:g}x {other}",
    "matmul_share": "at least {must:.0%} of the rate of a large bf16 product",
    "memory": "peak memory at most {must:g}x {other}",
    "overhead": "the engine at most {must:.0%} slower than a bare loop",
    "milliseconds": "at most {must:g} ms",
    "clips": "at least {must:g} clips/s",
    "images": "at least {must:g} images/s",
    "baseline": "{other}: at least {must:.0%} of the released rate per unit of matmul rate",
}
AT_MOST = ("memory", "overhead", "milliseconds")


def _cpu(case: str, measure: str, must: float, dtype: str = "bf16", row: str = "cpu") -> StepGoal:
    return StepGoal(row=row, device="cpu", case=case, measure=measure, must=must, dtype=dtype)


def _gpu(row: str, case: str, measure: str, must: float, peer: str = "release-eager", dtype: str = "fp16") -> StepGoal:
    return StepGoal(row=row, device="cuda", case=case, measure=measure, must=must, peer=peer, dtype=dtype)


GOALS = (
    _cpu("pretrain_8_clips", "speedup", 1.2),
    _cpu("pretrain_8_clips", "speedup", 2.2, "fp32"),
    _cpu("finetune_4_clips", "speedup", 1.15),
    _cpu("finetune_4_clips", "speedup", 2.4, "fp32"),
    *(_cpu(case, "matmul_share", 0.6) for case in ("pretrain_8_clips", "finetune_4_clips")),
    *(
        _cpu(case, "memory", 0.6, dtype)
        for case in ("pretrain_8_clips", "finetune_4_clips")
        for dtype in ("bf16", "fp32")
    ),
    *(_cpu(case, "overhead", MOST_OVERHEAD) for case in ("pretrain_8_clips", "finetune_4_clips")),
    *(
        _cpu(case, "baseline", LEAST_SHARE, dtype, row="baseline")
        for case in ("pretrain_8_clips", "finetune_4_clips")
        for dtype in ("bf16", "fp32")
    ),
    _gpu("16", "pretrain_192_192", "speedup", 2.5),
    _gpu("16", "pretrain_192_192", "milliseconds", 57),
    _gpu("16", "pretrain_192_clips", "clips", 3900),
    _gpu("16", "pretrain_1024_images", "images", 26_000),
    _gpu("17", "pretrain_192_192", "speedup", 1.3, "compile-sdpa", "bf16"),
    _gpu("18", "finetune_16_16", "speedup", 3.0),
    _gpu("18", "finetune_16_16", "milliseconds", 38),
    _gpu("19", "finetune_64_clips", "speedup", 1.15, "compile-dense", "bf16"),
    _gpu("19", "finetune_64_clips", "clips", 540),
    *(_gpu("20", case, "overhead", MOST_OVERHEAD) for case in ("pretrain_192_192", "finetune_16_16")),
    *(_gpu("23", case, "memory", 0.6) for case in ("pretrain_192_192", "finetune_16_16")),
)


def evaluate(document: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
    """Outcomes of the goals of a device type: ``state`` pass, fail or absent."""
    return [_outcome(goal, document) for goal in GOALS if goal.device == device]


def _outcome(goal: StepGoal, document: Mapping[str, Any]) -> dict[str, Any]:
    value, detail = _value(goal, document)
    state = "absent"
    if value is not None:
        state = "pass" if (value <= goal.must if goal.measure in AT_MOST else value >= goal.must) else "fail"
    return {
        "row": goal.row,
        "goal": goal.text,
        "must": goal.must,
        "value": value,
        "state": state,
        "detail": detail,
    }


def _value(goal: StepGoal, document: Mapping[str, Any]) -> tuple[float | None, str]:
    """The measured value, None with the reason if there is none."""
    if goal.measure == "baseline":
        shares = [each for each in document["baseline"] if (each["case"], each["dtype"]) == (goal.case, goal.dtype)]
        return (shares[0]["share"], "release-eager") if shares else (None, "release-eager did not run")
    rows = [row for row in document["rows"] if row["case"] == goal.case]
    ours = main_row(rows)
    if ours is None:
        return None, "the case did not run"
    if goal.measure == "overhead":
        return _overhead(document["comparisons"], goal.case)
    if goal.measure == "matmul_share":
        return ours["flops_per_second"] / document["ceiling"]["matmul_bfloat16"], ours["peer"]
    single = {"milliseconds": "median_ms", "clips": "clips_per_second", "images": "images_per_second"}
    if goal.measure in single:
        return ours[single[goal.measure]], ours["peer"]
    other = next((row for row in rows if (row["peer"], row["dtype"]) == (goal.peer, goal.dtype)), None)
    if other is None:
        return None, f"{goal.peer} in {goal.dtype} did not run"
    if goal.measure == "memory":
        if not ours["peak_bytes"] or not other["peak_bytes"]:
            return None, "memory was not measured"
        return ours["peak_bytes"] / other["peak_bytes"], f"{ours['peer']} against {goal.peer}"
    found = _comparison(document["comparisons"], goal.case, goal.peer, goal.dtype)
    return found["speedup"], f"{found['ours']} against {goal.peer}"


def _comparison(comparisons: list[Mapping[str, Any]], case: str, peer: str, dtype: str) -> Mapping[str, Any]:
    return next(each for each in comparisons if (each["case"], each["peer"], each["dtype"]) == (case, peer, dtype))


def _overhead(comparisons: list[Mapping[str, Any]], case: str) -> tuple[float | None, str]:
    """How much longer the engine's step took than the bare loop's, in the median of the rounds."""
    for each in comparisons:
        if (each["case"], each["peer"], each["ours"]) == (case, "bare", "engine"):
            return 1 / each["speedup"] - 1, "engine against bare"
    return None, "engine and bare did not both run"
