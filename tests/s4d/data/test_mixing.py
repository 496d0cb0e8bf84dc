"""Mixup and cutmix draws and the targets that follow."""

from __future__ import annotations

import numpy as np
import pytest

from s4d.config_data import MixConfig
from s4d.data.counter import generator
from s4d.data.mixing import draw_mix, mix_targets, soft_targets


def test_cutmix_shares_follow_the_box_that_was_cut() -> None:
    mix = MixConfig(cutmix_alpha=1.0)
    for number in range(200):
        draw = draw_mix(generator(number), mix, 32)
        assert draw.box is not None
        y0, x0, y1, x1 = draw.box
        assert 0 <= y0 <= y1 <= 32
        assert 0 <= x0 <= x1 <= 32
        assert draw.lam == 1 - (y1 - y0) * (x1 - x0) / 32**2


def test_mixup_shares_follow_the_beta_distribution() -> None:
    draws = [draw_mix(generator(number), MixConfig(mixup_alpha=0.8), 32) for number in range(2000)]
    assert all(draw.box is None for draw in draws)
    lam = np.array([draw.lam for draw in draws])
    # Beta(0.8, 0.8): mean 1/2, variance 1 / (4 * 2.6); standard errors 0.007 and about 0.002.
    assert abs(lam.mean() - 0.5) < 0.035
    assert abs(lam.var() - 1 / 10.4) < 0.01


def test_the_switch_chooses_between_both() -> None:
    mix = MixConfig(mixup_alpha=0.8, cutmix_alpha=1.0, switch_probability=0.25)
    cut = sum(draw_mix(generator(number), mix, 32).box is not None for number in range(1000))
    # 1000 draws at 0.25: standard deviation 14.
    assert abs(cut - 250) < 5 * 14


def test_targets_are_shares_of_both_labels() -> None:
    targets = soft_targets(np.array([0, 2]), 4, 0.1)
    assert targets[1].tolist() == pytest.approx([0.025, 0.025, 0.925, 0.025])
    mixed = mix_targets(targets, np.array([0.7, 0.7], dtype=np.float32))
    assert mixed[0].tolist() == pytest.approx([0.655, 0.025, 0.295, 0.025])
    assert mixed[1].tolist() == pytest.approx([0.295, 0.025, 0.655, 0.025])
    assert mixed.sum(1).tolist() == pytest.approx([1.0, 1.0])
