"""Recipes, rates and the choice of a way to run, without DeepSpeed's figures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from s4d.analysis.plan.activations import FAMILIES, backends_of
from s4d.analysis.plan.choice import State, Way, choose, micro_batch, ways
from s4d.analysis.plan.gpus import GPUS, find_gpu, reachable
from s4d.analysis.plan.measured import read_profile
from s4d.analysis.plan.recipe import Recipe, read_recipe
from s4d.analysis.plan.seconds import ASSUMED_SHARES, LAUNCH_SECONDS, Speed, StepTime, Update, micro_work, step_time
from s4d.analysis.step_work import PARTS, total
from s4d.config import load
from s4d.errors import DataError, UsageError

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
PRETRAIN = CONFIGS / "pretrain" / "s4d_vit_base_vox2_affectnet.yaml"
RELEASE = CONFIGS / "pretrain" / "release_vit_base_vox2_affectnet.yaml"
FINETUNE = CONFIGS / "finetune" / "s4d_vit_base_dfew_affectnet7.yaml"
COUNTS = {"affectnet": 300_000, "voxceleb2": 1_000_000}
SPEED = Speed(rates=reachable(GPUS["h200"], "bf16", nodes=1, gpus_per_node=4), shares=ASSUMED_SHARES)
NOTHING = Update(moved=0.0, on_host=False, messages={}, sent=0.0, calls=0)


def recipe(path: Path, counts: dict[str, int] | None = None, *overrides: str) -> Recipe:
    return read_recipe(load(path, list(overrides)), counts or {})


def test_steps_of_a_packed_and_of_an_alternating_run() -> None:
    packed = recipe(PRETRAIN, COUNTS)
    # An epoch passes all images, 80 a step, and a quarter of the clips, each seen four times, 304 a step.
    assert packed.steps == 100 * max(300_000 // 80, 1_000_000 // 304)
    assert [dict(kind.samples) for kind in packed.kinds] == [{"image": 80, "video": 304}]
    apart = recipe(RELEASE, COUNTS)
    assert [(dict(kind.samples), kind.steps) for kind in apart.kinds] == [
        ({"image": 384}, 100 * (300_000 // 384)),
        ({"video": 384}, 100 * (1_000_000 // 384)),
    ]
    assert packed.kept == {"image": 10, "video": 40} and not packed.assumed


def test_what_is_not_known_is_said() -> None:
    unknown = recipe(PRETRAIN)
    assert unknown.steps is None and "--samples affectnet=COUNT" in unknown.assumed[0]
    fixed = recipe(RELEASE, None, "engine.epochs=null", "engine.steps=1000")
    assert [kind.steps for kind in fixed.kinds] == [500, 500] and "as many" in fixed.assumed[0]
    guessed = recipe(FINETUNE, None, "data.sources.1.classes=null")
    assert "the head of dfew has 7 classes" in guessed.assumed[0] and guessed.classes == 14
    added = recipe(FINETUNE, None, "model.moae.shared_experts=1", "model.moae.modality_prior=true").assumed
    assert [line.split()[1] for line in added if "not counted in full" in line] == [
        "model.moae.modality_prior",
        "model.moae.shared_experts",
    ]
    assert len(guessed.sizes) > 200 and guessed.arch.experts is not None and guessed.kept["video"] == 800


def test_a_network_between_nodes_is_that_of_all_their_adapters() -> None:
    gpu = find_gpu("h100")
    link = {(n, g): reachable(gpu, "bf16", nodes=n, gpus_per_node=g).link for n, g in ((1, 8), (2, 8), (2, 1), (2, 2))}
    assert link[1, 8] == 0.8 * 450e9 and link[2, 8] == 0.8 * 400e9
    assert link[2, 1] == 0.8 * 50e9 and link[2, 2] == 0.8 * 100e9
    assert find_gpu("h100", 100.0).network_rate == 12.5e9 and find_gpu("h100").network_rate == 50e9
    with pytest.raises(UsageError, match="--gpu: unknown GPU 'tpu'; expected one of h200"):
        find_gpu("tpu")


def timed(found: Recipe, parts: int = 4, accumulation: int = 1, update: Update = NOTHING, **given: Any) -> StepTime:
    batch = micro_batch(found, found.kinds[0], parts * accumulation)
    return step_time(found, batch, accumulation, update, dataclasses.replace(SPEED, **given))


def test_times_of_a_step_add_up_and_stay_above_their_floors() -> None:
    found = recipe(PRETRAIN, COUNTS)
    update = Update(moved=1e9, on_host=False, messages={"all_reduce": 4e8}, sent=6e8, calls=3)
    time = timed(found, update=update)
    assert sum(time.bound.values()) == pytest.approx(time.seconds)
    assert all(time.projected[name] >= time.floor[name] for name in time.floor)
    assert time.projected["idle"] == 0.0
    work = total(micro_work(found, micro_batch(found, found.kinds[0], 4)))
    assert time.flops == work.forward.flops + work.backward.flops
    assert sum(time.floor[name] for name in PARTS) >= time.flops / SPEED.rates.flops
    perfect = timed(found, update=update, shares=dict.fromkeys(ASSUMED_SHARES, 1.0), launch_seconds=0.0)
    assert perfect.seconds == pytest.approx(perfect.floor_seconds + 3 * 30e-6)


def test_little_work_waits_for_kernel_launches() -> None:
    found = recipe(PRETRAIN, COUNTS)
    slow = timed(found, launch_seconds=1.0)
    assert (
        slow.seconds == pytest.approx(1.0) and max(slow.bound, key=lambda name: slow.bound[name]) == "kernel launches"
    )


def test_counting_choices_ahead_costs_a_forward_where_steps_accumulate() -> None:
    found = recipe(FINETUNE)
    forward = total(micro_work(found, micro_batch(found, found.kinds[0], 2))).forward.flops
    once, twice = timed(found, parts=2), timed(found, parts=1, accumulation=2)
    assert twice.flops - 2 * once.flops == 2 * forward
    plain = dataclasses.replace(found, counted_twice=False)
    assert timed(plain, parts=1, accumulation=2).flops == 2 * timed(plain, parts=2).flops


def test_layers_done_again_cost_their_forward() -> None:
    found = recipe(PRETRAIN, COUNTS)
    assert found.layers == 16
    work = micro_work(found, micro_batch(found, found.kinds[0], 4))
    half = dataclasses.replace(found, recomputed=frozenset(range(6)))
    encoder = work["encoder attention"].forward.flops + work["encoder linear"].forward.flops
    assert timed(half).flops - timed(found).flops == pytest.approx(encoder / 2)
    whole = dataclasses.replace(found, recomputed=frozenset(range(16)))
    decoder = work["decoder attention"].forward.flops + work["decoder linear"].forward.flops
    assert timed(whole).flops - timed(found).flops == pytest.approx(encoder + decoder)
    assert timed(whole, launch_seconds=None).seconds > timed(found, launch_seconds=None).seconds
    experts = recipe(FINETUNE)
    last = dataclasses.replace(experts, recomputed=frozenset([11]))
    work = micro_work(experts, micro_batch(experts, experts.kinds[0], 4))
    forwards = {name: part.forward.flops for name, part in work.items()}
    expected = (forwards["encoder attention"] + forwards["encoder linear"]) / 12
    assert experts.arch.experts is not None
    expected += forwards["moae"] / len(experts.arch.experts.layers)
    assert timed(last).flops - timed(experts).flops == pytest.approx(expected)


def all_ways(found: Recipe, memory: float, *, shrinks: bool = True) -> list[Way]:
    def state(stage: int, accumulation: int) -> State | None:
        held = {"weights": 1e9 / (2 if stage and shrinks else 1)}
        sent = 1e8 * (1 + stage)
        return State(held=held, backward=0.0, on_update=0.0, update=dataclasses.replace(NOTHING, sent=sent))

    return ways(found, state, SPEED, world_size=4, memory=memory, backends=FAMILIES["triton"], drop_path=False)


def test_the_largest_micro_batch_that_fits_and_the_fastest_stage() -> None:
    found = recipe(PRETRAIN, COUNTS)
    roomy = all_ways(found, 141e9)
    assert [way.accumulation for way in roomy] == [1, 1, 1, 1]
    best = choose(roomy)
    assert best is roomy[0] and dict(best.micro) == {"image": 20, "video": 76}
    assert best.rate("video") == pytest.approx(304 / best.step_seconds)
    tight = all_ways(found, 5.2e9)
    assert all(way.accumulation > 1 and 80 % (4 * way.accumulation) == 0 for way in tight)
    assert tight[0].accumulation > tight[1].accumulation
    assert choose(all_ways(found, 1e9)) is None
    # Equally fast: the least ZeRO.
    same = [dataclasses.replace(way, times=roomy[0].times) for way in roomy]
    assert choose(list(reversed(same))) is same[0]


def test_quotas_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UsageError, match=r"batch.per_step.affectnet: 32 views do not divide over 5 GPUs, in pairs"):
        ways(
            recipe(FINETUNE),
            lambda stage, accumulation: None,
            SPEED,
            world_size=5,
            memory=1e9,
            backends=FAMILIES["triton"],
            drop_path=True,
        )


def test_backends_that_are_not_modelled_are_named() -> None:
    found, lines = backends_of({"attention": "sdpa", "moae": "dense_all"})
    assert (found.attention, found.moae) == ("sdpa", "triton")
    assert lines == ["engine.backends.moae: dense_all is taken to keep what Triton's path keeps"]


def profile_document() -> dict[str, Any]:
    parts = {
        name: {phase: {"seconds": 2.0, "floor_seconds": 1.0} for phase in ("forward", "backward")} for name in PARTS
    }
    parts["moae"] = {phase: {"seconds": 0.0, "floor_seconds": 0.0} for phase in ("forward", "backward")}
    return {
        "what": "step",
        "machine": {"device_name": "a GPU"},
        "limits": {"flops": 1e14, "bytes": 1e12},
        "parts": parts,
        "optimizer": {"seconds": 1.0, "floor_seconds": 0.9},
        "launches": {"forward": 300, "backward": 700},
        "run": {"accumulation": 2},
    }


def test_a_profile_takes_the_place_of_assumptions(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    path.write_text(json.dumps(profile_document()))
    speed, device = read_profile(path, SPEED)
    assert device == "a GPU" and (speed.rates.flops, speed.rates.memory) == (1e14, 1e12)
    assert speed.rates.link == SPEED.rates.link and speed.launch_seconds == 500 * LAUNCH_SECONDS
    assert speed.shares["decoder linear"] == 0.5 and speed.shares["optimizer"] == 0.9
    assert speed.shares["moae"] == ASSUMED_SHARES["moae"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"what": "moae"}, "field 'what': expected 'step', got 'moae'"),
        ({"limits": {"flops": 0.0, "bytes": 1.0}}, "limits.flops"),
        ({"run": {}}, "field 'accumulation' is missing"),
        ({"launches": 3}, "no profile of a step"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "step.json"
    path.write_text(json.dumps({**profile_document(), **change}))
    with pytest.raises(DataError, match=message) as caught:
        read_profile(path, SPEED)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
