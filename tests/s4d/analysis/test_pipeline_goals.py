"""Whether scores lie within the noise between seeds, and what a run of the pipeline must show."""

from __future__ import annotations

from typing import Any

import pytest

from s4d.analysis.pipeline_goals import OUR_OPS, compare_uar, evaluate, judge_uar

UARS = (0.50, 0.54, 0.52)
TRITON = {f"{op}(device=cuda, dtype=torch.bfloat16)": "triton" for op in OUR_OPS}


def rows(*values: float) -> list[dict[str, Any]]:
    return [{"seed": n, "dfew.uar": value, "dfew.war": 0.9} for n, value in enumerate(values)]


def document(device: str = "cuda", **changes: Any) -> dict[str, Any]:
    whole = {
        "machine": {"device": device, "device_name": "some processor"},
        "commit": "abc",
        "recipe": {"size": "full"},
        "scores": rows(0.53),
        "backends": {"pretrain": TRITON, "finetune": TRITON | {"moae_plan(device=cuda)": "native"}},
        "loader": {"backend": "dali", "reason": "it decodes"},
        "collectives": "nccl",
        "resume": {"killed_at_step": 24, "saved_step": 20, "continued_from": 20, "differing_files": []},
        **changes,
    }
    return whole | judge_uar(whole, [{**whole, "machine": {"device_name": "cpu"}, "scores": rows(*UARS)}])


def states(found: dict[str, Any]) -> list[str]:
    return [goal["state"] for goal in evaluate(found)]


def test_the_band_is_two_sample_deviations_wide() -> None:
    (found,) = compare_uar(rows(0.53), rows(*UARS)).values()
    assert found["mean"] == pytest.approx(0.52) and found["standard_deviation"] == pytest.approx(0.02)
    assert (found["low"], found["high"]) == (pytest.approx(0.48), pytest.approx(0.56)) and found["within"] is True


@pytest.mark.parametrize(("uar", "within"), [(0.485, True), (0.475, False), (0.555, True), (0.565, False)])
def test_scores_within_the_band_pass(uar: float, within: bool) -> None:
    found = document(scores=rows(uar))
    assert found["uar_within_noise"] is within and "3 seeds" in found["uar_judgement"]
    assert states(found)[-1] == ("pass" if within else "fail")


def test_one_source_outside_is_enough() -> None:
    scores, reference = [{"a.uar": 0.5, "b.uar": 0.9}], [{"a.uar": value, "b.uar": value} for value in UARS]
    assert [each["within"] for each in compare_uar(scores, reference).values()] == [True, False]


def test_without_something_to_compare_with_there_is_no_judgement() -> None:
    whole = document()
    other = {**whole, "recipe": {"size": "tiny"}, "scores": rows(*UARS)}
    few = {**whole, "scores": rows(0.5, 0.6)}
    for references, reason in (([], "no results"), ([other], "no results"), ([few], "fewer than 3")):
        found = judge_uar(whole, references)
        assert found["uar_within_noise"] is None and reason in found["uar_judgement"]
    assert document("cpu")["uar_within_noise"] is None
    assert document(scores=[])["uar_judgement"] == "nothing was scored"
    assert states(document(scores=[]))[-1] == "absent"


def test_a_good_run_passes_everything() -> None:
    assert states(document()) == ["pass"] * 6
    assert states(document("cpu")) == ["pass"] * 2


@pytest.mark.parametrize(
    ("place", "changes", "state"),
    [
        (0, {"resume": {"saved_step": 20, "continued_from": 0}}, "fail"),
        (0, {"resume": None}, "absent"),
        (1, {"resume": {"saved_step": 20, "continued_from": 20, "differing_files": ["model.safetensors"]}}, "fail"),
        (1, {"resume": {"saved_step": 20, "continued_from": 20, "differing_files": None}}, "absent"),
        (2, {"backends": {"pretrain": TRITON, "finetune": {"moae(device=cuda)": "grouped"}}}, "fail"),
        (2, {"backends": {"pretrain": {"patch(device=cuda)": "triton"}}}, "fail"),
        (2, {"backends": {}}, "absent"),
        (3, {"collectives": "gloo"}, "fail"),
        (4, {"loader": {"backend": "pyav", "reason": "dali refused: not there"}}, "absent"),
    ],
)
def test_what_is_missing_shows(place: int, changes: dict[str, Any], state: str) -> None:
    assert states(document(**changes))[place] == state
