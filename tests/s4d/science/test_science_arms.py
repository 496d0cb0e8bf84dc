"""The arms: every configuration loads, differs from the reference in what it should, and keeps to the budget."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from s4d.config import Config, load
from s4d.data.manifest import ManifestRow
from s4d.data.plan import SamplePlan
from s4d.data.sources import Source
from s4d.errors import DataError, UsageError
from s4d.science.amounts import SIZES, Data, Size, reduced
from s4d.science.arms import (
    ARMS,
    DYNAMIC,
    QUESTIONS,
    REFERENCE,
    STATIC,
    Arm,
    arm_named,
    even_rate,
    finetune_overrides,
    pretrain_overrides,
)
from s4d.science.run import samples_seen

CLASSES = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
ALONE = {"mode", "batch.loss_weights", "batch.per_step", "data.sources"}
RELEASED = {
    "recipe",
    "batch.batching",
    "batch.loss_weights",
    "batch.per_step",
    "data.frame_sampling",
    "data.image.resize",
    "data.video.resize",
    "data.mix.scope",
    "data.sources",
    "model.moae.balance",
    "model.moae.balance_weight",
    "model.moae.capacity_factor",
    "model.moae.layer_decay",
    "model.moae.router_noise",
    "model.moae.zero_init",
}
# What each arm may change of the reference, and must.
CHANGES: dict[str, set[str]] = {
    "sfer": ALONE,
    "scratch": ALONE | {"model.init_from"},
    "video": ALONE,
    "dual": ALONE,
    "multitask": {"mode"},
    "moae-release": RELEASED,
    "moae": set(),
    "stills-0": ALONE - {"mode"},
    "stills-12.5": set(),
    "stills-25": set(),
    "stills-50": set(),
}
SIZE_NAMES = ("cpu", "gpu")


def settings_of(arm: Arm, size: Size) -> Config:
    words = finetune_overrides(arm, size.finetune)
    if arm.alternates:
        stills, clips = train_counts(arm, size)[STATIC], size.labelled_clips
        rate = even_rate(stills, clips, load(size.finetune, words).batch.per_step)
        words.append(f"data.sources.0.rate={rate}")
    return load(size.finetune, words)


def train_counts(arm: Arm, size: Size) -> dict[str, int]:
    """Four of five people are in the training split."""
    return {STATIC: round(arm.stills * size.images * 4 / 5), DYNAMIC: size.labelled_clips}


def flat(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        # Choices by modality and lists are one setting.
        if isinstance(value, dict) and prefix not in ("batch.per_step", "batch.loss_weights"):
            for key, item in value.items():
                walk(f"{prefix}.{key}" if prefix else key, item)
        else:
            found[prefix] = value

    walk("", config.model_dump(mode="json"))
    return found


@pytest.mark.parametrize("size", SIZE_NAMES)
@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm.name in CHANGES], ids=lambda arm: arm.name)
def test_an_arm_changes_what_it_is_about_and_nothing_else(arm: Arm, size: str) -> None:
    reference = flat(settings_of(arm_named(REFERENCE), SIZES[size]))
    own = flat(settings_of(arm, SIZES[size]))
    changed = {key for key in reference if own[key] != reference[key]}
    assert changed == CHANGES[arm.name]
    assert [source["name"] for source in own["data.sources"]] == list(arm.sources)


def test_every_other_arm_is_a_variation_of_the_reference() -> None:
    reference = flat(settings_of(arm_named(REFERENCE), SIZES["cpu"]))
    for arm in ARMS:
        if arm.name not in CHANGES:
            assert arm.group == "variation" or arm.name == "best"
            differs = flat(settings_of(arm, SIZES["cpu"])) != reference
            assert differs or arm.pretraining != arm_named(REFERENCE).pretraining


@pytest.mark.parametrize("size", SIZE_NAMES)
@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_arm_has_the_same_budget(arm: Arm, size: str) -> None:
    config = settings_of(arm, SIZES[size])
    reference = settings_of(arm_named(REFERENCE), SIZES[size])
    counts = train_counts(arm, SIZES[size])
    plan = SamplePlan(config, [listed(config, name, counts[name]) for name in arm.sources], world_size=2)
    steps = reference.engine.steps
    assert steps is not None and plan.total_steps == steps
    expected = {"image": steps * reference.batch.per_step[STATIC], "video": steps * reference.batch.per_step[DYNAMIC]}
    present = {"image" if name == STATIC else "video" for name in arm.sources}
    assert samples_seen(plan) == {modality: expected[modality] for modality in present}


def listed(config: Config, name: str, count: int) -> Source:
    source = next(source for source in config.data.sources if source.name == name)
    kind = "image" if name == STATIC else "frames"
    rows = tuple(
        ManifestRow(sample_id=str(number), path=str(number), kind=kind, dataset=name, split="train")  # type: ignore[arg-type]
        for number in range(count)
    )
    labels = tuple(number % len(CLASSES) for number in range(count))
    return Source(config=source, rows=rows, labels=labels, classes=CLASSES, root=Path("."), fingerprint="")


@pytest.mark.parametrize("size", SIZE_NAMES)
def test_the_pre_trainings_differ_in_the_stills_alone(size: str) -> None:
    path = SIZES[size].pretrain
    dual, video = (flat(load(path, pretrain_overrides(kind, path))) for kind in ("dual", "video"))
    assert {key for key in dual if dual[key] != video[key]} == {"data.sources", "batch.per_step"}
    assert video["data.sources"] == [source for source in dual["data.sources"] if source["modality"] == "video"]
    assert video["batch.per_step"].items() <= dual["batch.per_step"].items()


def test_questions_are_about_arms_that_have_the_head() -> None:
    for before, after, source in QUESTIONS:
        assert source in arm_named(before).sources and source in arm_named(after).sources
    with pytest.raises(UsageError, match="'moe' is unknown"):
        arm_named("moe")
    assert len({arm.name for arm in ARMS}) == len(ARMS)


def test_kept_samples_are_nested_and_even_over_classes() -> None:
    rows = [
        ManifestRow(
            sample_id=f"{split}-{number}",
            path=f"{number}",
            kind="image",
            dataset="stills",
            split=split,
            label=CLASSES[number % 7],
        )
        for split, count in (("train", 70), ("test", 14))
        for number in range(count)
    ]
    few, some = (reduced(rows, CLASSES, kept) for kept in (14, 35))
    train = [row for row in some if row.split == "train"]
    assert len(train) == 35 and set(Counter(row.label for row in train).values()) == {5}
    assert {row.sample_id for row in few} < {row.sample_id for row in some}
    assert len([row for row in few if row.split == "test"]) == 14
    assert reduced(rows[::-1], CLASSES, 14) == few[::-1]
    assert reduced(rows, CLASSES, 70) == tuple(rows)


def test_data_of_other_amounts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise InterruptedError

    monkeypatch.setattr("s4d.science.amounts.make_sets", stop)
    for _ in range(2):
        with pytest.raises(InterruptedError):
            Data(SIZES["tiny"], tmp_path / "data").make()
    with pytest.raises(DataError, match=r"amounts\.json: these data are of other amounts"):
        Data(SIZES["cpu"], tmp_path / "data").make()
