"""`s4d plan` as a command: its figures are those of `engine.footprint`, which are what ranks hold and send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine import footprint
from engine.footprint import Case
from s4d.cli import main
from s4d.cli.bench_zero import run_ranks
from s4d.cli.plan import rank_state

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
PRETRAIN = str(CONFIGS / "pretrain" / "s4d_vit_base_vox2_affectnet.yaml")
FINETUNE = str(CONFIGS / "finetune" / "s4d_vit_base_dfew_affectnet7.yaml")
COUNTS = ["--samples", "affectnet=300000", "--samples", "voxceleb2=1000000"]
# Elements that DeepSpeed's flat tensors are rounded up to, times ranks, and groups of parameters.
ALIGNMENT, GROUPS = 2, 2


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["plan", *arguments, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_a_plan_answers_what_to_run_and_how_long_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "--config", PRETRAIN, "--nodes", "2", "--gpus-per-node", "4", "--gpu", "h100", *COUNTS)
    choice = found["choice"]
    assert found["schema"] == 1 and found["kind"] == "plan" and found["cluster"]["gpu_bytes"] == 80e9
    assert choice in found["ways"] and [way["zero_stage"] for way in found["ways"]] == [0, 1, 2, 3]
    assert choice["fits"] and choice["peak_bytes"] <= 80e9 and choice["micro_batch"] == {"image": 10, "video": 38}
    assert found["hours"] == pytest.approx(found["steps"] * choice["step_seconds"] / 3600)
    assert choice["clips_per_second"] == pytest.approx(304 / choice["step_seconds"])
    assert choice["floor_seconds"] < choice["step_seconds"]
    # A decoded clip gives four views.
    assert found["decodes"]["voxceleb2"] == pytest.approx(choice["clips_per_second"] / 4 / 2)


@pytest.mark.parametrize(("path", "precision"), [(PRETRAIN, "bf16"), (FINETUNE, "fp32")])
def test_memory_and_messages_are_those_of_the_footprint(
    capsys: pytest.CaptureFixture[str], path: str, precision: str
) -> None:
    found = planned(capsys, "--config", path, "--gpus-per-node", "4", f"engine.precision={precision}")
    for way in found["ways"]:
        case = Case(
            stage=way["zero_stage"],
            world_size=4,
            precision=precision,
            accumulation=way["accumulation"],
            has_average=path == FINETUNE,
        )
        sizes = [found["parameters"] - 50_000, 50_000]
        whole = footprint.memory(case, sizes)
        for name in ("masters", "moments", "ema", "gradients"):
            assert way["memory"][name] == pytest.approx(getattr(whole, name)), name
        if case.stage < 3:
            assert way["memory"]["weights"] == whole.gathered
            assert way["messages"] == footprint.traffic(case, sizes)
        assert sum(way["memory"].values()) >= way["peak_bytes"] > way["memory"]["activations"]


def test_offloaded_state_is_not_on_the_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "--config", PRETRAIN, "--gpus-per-node", "2", "engine.offload=optimizer")
    assert [way["zero_stage"] for way in found["ways"]] == [1, 2, 3]
    assert all(way["memory"][name] == 0 for way in found["ways"] for name in ("masters", "moments", "gradients"))
    assert all(way["bound_seconds"]["host"] > 0 for way in found["ways"])


def test_recomputed_layers_take_less_memory_and_more_time(capsys: pytest.CaptureFixture[str]) -> None:
    plain, half, whole = (
        planned(capsys, "--config", FINETUNE, "--gpu", "l4", f"engine.recompute={share}") for share in (0, 0.5, 1)
    )
    assert "engine.recompute: 6 of 12 layers are done again" in half["assumptions"]
    assert "engine.recompute: 12 of 12 layers are done again" in whole["assumptions"]
    more, less = (
        [found["ways"][0]["memory"]["activations"] for found in (plain, half, whole)],
        [found["ways"][0]["step_seconds"] for found in (whole, half, plain)],
    )
    assert more[0] > more[1] > more[2] and less[0] > less[1] > less[2]


def test_text_says_what_limits_and_what_is_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", PRETRAIN, "--gpus-per-node", "4", "--gpu", "l4", "--network", "25"]) == 0
    text = capsys.readouterr().out
    for words in ("run: engine.zero_stage=", "limits: ", "assumed:", "hours are unknown", "4 GPUs"):
        assert words in text, words


def test_where_nothing_fits_the_limit_is_memory(capsys: pytest.CaptureFixture[str]) -> None:
    wide = ["model.image_size=960", "model.depth=24"]
    assert main(["plan", "--config", FINETUNE, "--gpus-per-node", "2", "--gpu", "l4", *wide]) == 1
    assert "limit: memory; not even the smallest micro batch fits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--gpu", "tpu"], 2, "--gpu: unknown GPU 'tpu'"),
        (["--samples", "affectnet"], 2, "--samples: expected SOURCE=N"),
        (["--samples", "vox=3"], 2, "--samples: no source 'vox'"),
        (["--gpus-per-node", "7"], 2, "batch.per_step.affectnet: 80 views do not divide over 7 GPUs"),
        (["--profile", "nowhere.json"], 1, "nowhere.json: cannot be read"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, words: str
) -> None:
    assert main(["plan", "--config", PRETRAIN, *arguments]) == status
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1


@pytest.mark.deep
@pytest.mark.launch
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_hold_and_send_what_a_plan_says(world_size: int) -> None:
    kinds = [*((stage, "bf16", 1) for stage in (0, 1, 2, 3)), (1, "fp32", 1), (2, "bf16", 2), (3, "bf16", 2)]
    cases = [
        Case(stage=stage, world_size=world_size, precision=precision, accumulation=accumulation)
        for stage, precision, accumulation in kinds
    ]
    for case, found in zip(cases, run_ranks(cases, "tiny"), strict=True):
        sizes = found["sizes"]
        state = rank_state(case, sizes)
        measured = {**found["memory"], "weights": found["memory"]["gathered"]}
        # Stage 3 rounds up every weight, the others every group of parameters.
        rounded = world_size * len(sizes) if case.stage == 3 else world_size * ALIGNMENT * GROUPS
        for name, factor in (("weights", 4), ("masters", 4), ("moments", 8), ("ema", 4)):
            assert 0 <= measured[name] - state.held[name] <= factor * rounded, (case, name)
        # Norms and flags are single numbers.
        sent = {name: entry["bytes"] for name, entry in found["traffic"].items() if entry["bytes"] > 1024}
        assert sent.keys() == state.update.messages.keys(), case
        for name, size in state.update.messages.items():
            assert 0 <= sent[name] - size <= 1024 + 8 * rounded * case.accumulation, (case, name)
