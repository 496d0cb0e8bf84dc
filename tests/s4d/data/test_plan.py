"""The global order: each sample once an epoch, whatever the number of ranks and micro steps; batch arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from s4d.config import Config
from s4d.data.plan import PlannedView, SamplePlan
from s4d.data.sources import Source
from s4d.errors import UsageError

MakeConfig = Callable[..., Config]
MakeSource = Callable[..., Source]
COUNTS = {"images": 50, "clips": 31}


def plan_of(config: Config, source_of: MakeSource, world_size: int = 1, **labels: list[int]) -> SamplePlan:
    sources = [source_of(config, name, COUNTS[name], labels.get(name)) for name in ("images", "clips")]
    return SamplePlan(config, sources, world_size=world_size)


def all_views(plan: SamplePlan, steps: range) -> dict[int, list[PlannedView]]:
    """Every view of the steps by source, in the order the whole machine sees them."""
    return {
        source: [
            view
            for step in steps
            for micro in range(plan.accumulation)
            for rank in range(plan.world_size)
            for view in plan.micro_views(step, source, rank=rank, micro=micro)
        ]
        for source in range(len(plan.sources))
    }


@pytest.mark.parametrize("batching", ["packed", "alternate"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_each_sample_passes_once_in_an_epoch_of_its_source(
    finetune_config: MakeConfig, source_of: MakeSource, world_size: int, batching: str
) -> None:
    config = finetune_config({"clips": 12, "images": 24}, batch={"batching": batching}, engine={"steps": 60})
    views = all_views(plan_of(config, source_of, world_size), range(60))
    for source, count in enumerate(COUNTS.values()):
        for epoch in range(5):
            rows = [view.row for view in views[source] if view.epoch == epoch]
            assert sorted(rows) == list(range(count))


@pytest.mark.parametrize("batching", ["packed", "alternate"])
def test_order_does_not_depend_on_ranks_or_accumulation(
    finetune_config: MakeConfig, source_of: MakeSource, batching: str
) -> None:
    orders = []
    for world_size, accumulation in ((1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 3)):
        batch = {"batching": batching, "accumulation": accumulation}
        config = finetune_config({"clips": 12, "images": 24}, batch=batch, engine={"steps": 20})
        orders.append(all_views(plan_of(config, source_of, world_size), range(20)))
    assert all(order == orders[0] for order in orders)


def test_order_depends_on_seed_source_and_epoch(finetune_config: MakeConfig, source_of: MakeSource) -> None:
    plans = [plan_of(finetune_config(seed=seed), source_of) for seed in (0, 1)]
    orders = [plan.order(0, epoch).tolist() for plan in plans for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert plans[0].order(0, 0).tolist() == orders[0]


def test_views_of_a_sample_follow_each_other(pretrain_config: MakeConfig, source_of: MakeSource) -> None:
    config = pretrain_config({"videos": 8, "images": 8})
    sources = [source_of(config, "images", 10), source_of(config, "videos", 6)]
    views = all_views(SamplePlan(config, sources, world_size=2), range(6))[1]
    assert [view.view for view in views] == [0, 1] * 24
    assert all(a.row == b.row for a, b in zip(views[::2], views[1::2], strict=True))


def test_alternating_steps_hold_one_modality_in_the_right_number(
    finetune_config: MakeConfig, source_of: MakeSource
) -> None:
    config = finetune_config({"clips": 4, "images": 8}, batch={"batching": "alternate"}, engine={"epochs": 3})
    plan = plan_of(config, source_of)
    assert (plan.steps_per_epoch, plan.total_steps) == (50 // 8 + 31 // 4, 3 * (50 // 8 + 31 // 4))
    epochs = []
    for epoch in range(3):
        steps = [plan.step_samples(epoch * plan.steps_per_epoch + i) for i in range(plan.steps_per_epoch)]
        kinds = Counter(tuple(sorted(step.items())) for step in steps)
        assert kinds == {(("image", 8), ("video", 0)): 6, (("image", 0), ("video", 4)): 7}
        epochs.append([step["image"] for step in steps])
    assert epochs[0] != epochs[1]
    assert plan.loss_weights() == {"image": 1.0, "video": 1.0}


def test_run_length_and_released_loss_weights(finetune_config: MakeConfig, source_of: MakeSource) -> None:
    config = finetune_config({"clips": 4, "images": 10}, engine={"epochs": 2})
    plan = plan_of(config, source_of)
    assert plan.steps_per_epoch == 31 // 4
    assert plan.total_steps == 2 * (31 // 4)
    assert [plan.epoch(step) for step in (0, 6, 7)] == [0, 0, 1]
    assert plan.loss_weights() == pytest.approx({"image": 5.0 / (5.0 + 7.75), "video": 7.75 / (5.0 + 7.75)})
    given = finetune_config(batch={"loss_weights": {"image": 0.3, "video": 2.0}})
    assert plan_of(given, source_of).loss_weights() == {"image": 0.3, "video": 2.0}


@pytest.mark.parametrize(("sampling", "expected"), [("balanced", [1 / 3] * 3), ("sqrt", [6 / 9, 2 / 9, 1 / 9])])
def test_weighted_sampling_follows_class_counts(
    finetune_config: MakeConfig, source_of: MakeSource, sampling: str, expected: list[float]
) -> None:
    config = finetune_config()
    source = config.data.sources[1].model_copy(update={"sampling": sampling})
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"sources": [config.data.sources[0], source]})}
    )
    labels = [0] * 36 + [1] * 4 + [2]
    sources = [source_of(config, "images", 41, labels), source_of(config, "clips", 31)]
    plan = SamplePlan(config, sources, world_size=1)
    drawn = Counter(labels[row] for epoch in range(400) for row in plan.order(0, epoch))
    shares = [drawn[label] / (400 * 41) for label in range(3)]
    # 16400 draws: standard deviation at most 0.004.
    assert shares == pytest.approx(expected, abs=0.02)
    # A sample drawn again is another view: its crop, mask and noise differ from those of the first.
    seen = all_views(plan, range(plan.steps_per_epoch))[0]
    assert len({(view.row, view.epoch) for view in seen}) < len(seen)
    assert len({(view.row, view.epoch, view.view) for view in seen}) == len(seen)


@pytest.mark.parametrize(
    ("per_step", "world_size", "sections", "message"),
    [
        ({"clips": 4, "images": 9}, 2, {}, "batch.per_step.images"),
        ({"clips": 4, "images": 8}, 2, {"data": {"mix": {"mixup_alpha": 1.0}}}, None),
        ({"clips": 4, "images": 8}, 4, {"data": {"mix": {"mixup_alpha": 1.0}}}, "batch.per_step.clips.*pairs"),
    ],
)
def test_batch_arithmetic_names_the_field(
    finetune_config: MakeConfig,
    source_of: MakeSource,
    per_step: dict[str, int],
    world_size: int,
    sections: dict[str, dict[str, object]],
    message: str | None,
) -> None:
    config = finetune_config(per_step, **sections)
    if message is None:
        assert plan_of(config, source_of, world_size).total_steps == 7
    else:
        with pytest.raises(UsageError, match=message):
            plan_of(config, source_of, world_size)


def test_summary_names_every_source(finetune_config: MakeConfig, source_of: MakeSource) -> None:
    text = "\n".join(plan_of(finetune_config(), source_of, 2).summary())
    assert "images: image, 50 samples, 8 views a step = 2 ranks x 1 micro steps x 4" in text
    assert "7 steps of packed batches" in text
