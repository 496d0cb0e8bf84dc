"""What a run of the whole pipeline must show, and whether its scores lie within what other seeds give on a CPU."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# A score counts as one of the CPU's if it lies within so many sample standard deviations of their mean.
WIDTH = 2.0
FEWEST_SEEDS = 3
ROW = "pipeline"
OUR_OPS = ("attention", "moae", "patch", "reconstruction")
Scores = Sequence[Mapping[str, Any]]


def compare_uar(scores: Scores, reference: Scores) -> dict[str, dict[str, float | bool]]:
    """The mean UAR of each source beside mean and sample standard deviation of the reference's seeds.

    Both are rows with `<source>.uar` for each source, one row a seed.
    """
    return {source: _compared(*(_uars(rows, source) for rows in (scores, reference))) for source in _sources(scores)}


def _compared(found: list[float], reference: list[float]) -> dict[str, float | bool]:
    value, mean = statistics.fmean(found), statistics.fmean(reference)
    deviation = statistics.stdev(reference)
    low, high = mean - WIDTH * deviation, mean + WIDTH * deviation
    return {
        "value": value,
        "mean": mean,
        "standard_deviation": deviation,
        "low": low,
        "high": high,
        "within": low <= value <= high,
    }


def _sources(rows: Scores) -> list[str]:
    return sorted(name.removesuffix(".uar") for name in rows[0] if name.endswith(".uar"))


def _uars(rows: Scores, source: str) -> list[float]:
    return [row[f"{source}.uar"] for row in rows]


def judge_uar(document: Mapping[str, Any], references: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`uar`, `uar_within_noise` and `uar_judgement` of a document: true or false, or null with the reason.

    Of the `references`, documents of CPU runs, the first of the same recipe with enough seeds is taken.
    """
    reason, fitting = "", [each for each in references if each["recipe"] == document["recipe"]]
    enough = [each for each in fitting if len(each["scores"]) >= FEWEST_SEEDS]
    if document["machine"]["device"] == "cpu":
        reason = "runs on a CPU are what others are compared with"
    elif not document["scores"]:
        reason = "nothing was scored"
    elif not fitting:
        reason = "no results of this recipe on a CPU are committed"
    elif not enough:
        reason = f"the results on a CPU have fewer than {FEWEST_SEEDS} seeds"
    if reason:
        return {"uar": {}, "uar_within_noise": None, "uar_judgement": reason}
    compared = compare_uar(document["scores"], enough[0]["scores"])
    return {
        "uar": compared,
        "uar_within_noise": all(each["within"] for each in compared.values()),
        "uar_judgement": f"mean of {len(enough[0]['scores'])} seeds on {enough[0]['machine']['device_name']} "
        f"at {enough[0]['commit']}, within {WIDTH:g} sample standard deviations",
    }


def evaluate(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Outcomes in the form of `kernels.bench.goals`, as far as the pipeline came."""
    found = _resume_goals(document["resume"] or {})
    if document["machine"]["device"] == "cuda":
        found += [*_gpu_goals(document), *_uar_goals(document)]
    return found


def _resume_goals(resume: Mapping[str, Any]) -> list[dict[str, Any]]:
    saved, continued, differing = (resume.get(key) for key in ("saved_step", "continued_from", "differing_files"))
    return [
        _goal(
            "a run whose processes were all killed continues from its last checkpoint",
            None if continued is None else continued == saved,
            f"killed at step {resume.get('killed_at_step')}, saved {saved}, continued from {continued}",
        ),
        _goal(
            "the continued run equals an undisturbed one to the bit",
            None if differing is None else not differing,
            "other bytes in " + ", ".join(differing) if differing else "same bytes" if differing == [] else "not run",
        ),
    ]


def _gpu_goals(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    chosen = {call: name for task in document["backends"].values() for call, name in task.items()}
    ours = {call: name for call, name in chosen.items() if call.partition("(")[0] in OUR_OPS}
    others = sorted({f"{call.partition('(')[0]}: {name}" for call, name in ours.items() if name != "triton"})
    seen = {call.partition("(")[0] for call in ours}
    loader, collectives = document["loader"] or {}, document["collectives"]
    decoder = loader.get("backend")
    return [
        _goal(
            "attention, experts, patches and reconstruction by Triton",
            (not others and seen == set(OUR_OPS)) if ours else None,
            ", ".join(others) or ", ".join(sorted(seen)),
        ),
        _goal("collectives by NCCL", None if collectives is None else collectives == "nccl", str(collectives)),
        # That DALI is not there is no fault of ours; the reason stands in `loader`.
        _goal("stills and videos decoded by DALI", True if decoder == "dali" else None, loader.get("reason", "")),
    ]


def _uar_goals(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not document["uar"]:
        return [_goal("UAR within the noise between seeds on a CPU", None, document["uar_judgement"])]
    return [
        _goal(
            f"UAR of {source} within the noise between seeds on a CPU",
            each["within"],
            f"{each['low']:.3f} to {each['high']:.3f}",
            each["value"],
        )
        for source, each in document["uar"].items()
    ]


def _goal(text: str, passes: bool | None, detail: str, value: float | None = None) -> dict[str, Any]:
    state = "absent" if passes is None else "pass" if passes else "fail"
    return {"row": ROW, "goal": text, "must": None, "value": value, "state": state, "detail": detail}
