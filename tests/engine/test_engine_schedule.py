from __future__ import annotations

import math
from pathlib import Path

import pytest
from engine_fakes import tiny_config

from engine.schedule import Schedule, build_schedule


def schedule(**changes: float) -> Schedule:
    values = {"peak_lr": 1.0, "min_lr": 0.1, "warmup_lr": 0.2, "warmup_steps": 5, "total_steps": 25, **changes}
    return Schedule(**values)  # type: ignore[arg-type]


def test_warm_up_includes_both_ends() -> None:
    rates = [schedule().lr(step) for step in range(5)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_cosine_starts_at_the_peak_and_ends_one_step_short_of_the_floor() -> None:
    assert schedule().lr(5) == 1.0
    assert schedule().lr(15) == pytest.approx(0.55)
    assert schedule().lr(24) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 19 / 20)))


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert schedule(warmup_steps=0).lr(0) == 1.0


def test_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_steps: expected 0 to 25, got 26"):
        schedule(warmup_steps=26)


def test_rate_scales_with_the_reference_batch_but_floor_and_start_do_not(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, reference_batch=256, lr=1e-3, min_lr=1e-6, warmup_lr=1e-7, warmup_share=0.05)
    built = build_schedule(config.optim, samples_per_step=512, total_steps=100)
    assert (built.peak_lr, built.min_lr, built.warmup_lr, built.warmup_steps) == (2e-3, 1e-6, 1e-7, 5)


def test_groups_get_their_own_scale() -> None:
    groups = [{"lr_scale": 1.0, "lr": 0.0}, {"lr_scale": 0.5, "lr": 0.0}]
    assert schedule().apply(4, groups) == 1.0
    assert [group["lr"] for group in groups] == [1.0, 0.5]
