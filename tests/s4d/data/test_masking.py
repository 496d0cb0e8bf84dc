"""Masks: exact counts, all tokens once, functions of their seed, uniform."""

from __future__ import annotations

import numpy as np
import pytest

from s4d.data.masking import decoded_count, masked_count, split_tokens


@pytest.mark.parametrize(
    ("tokens", "ratio", "masked"), [(100, 0.9, 90), (800, 0.95, 760), (36, 0.9, 32), (144, 0.95, 136), (10, 0.0, 0)]
)
def test_counts_are_exact_for_every_seed(tokens: int, ratio: float, masked: int) -> None:
    assert masked_count(tokens, ratio) == masked
    for seed in range(50):
        visible, hidden = split_tokens(seed, tokens, ratio)
        assert len(hidden) == masked
        assert list(visible) == sorted(visible)
        assert list(hidden) == sorted(hidden)
        assert sorted([*visible, *hidden]) == list(range(tokens))


def test_masks_follow_their_seed() -> None:
    again = [split_tokens(7, 100, 0.9)[0].tolist() for _ in range(2)]
    assert again[0] == again[1]
    assert again[0] != split_tokens(8, 100, 0.9)[0].tolist()


def test_every_token_is_visible_equally_often() -> None:
    seen = np.zeros(50)
    for seed in range(2000):
        seen[split_tokens(seed, 50, 0.8)[0]] += 1
    # 2000 draws at probability 0.2: standard deviation 18.
    assert abs(seen - 400).max() < 5 * 18


@pytest.mark.parametrize(("ratio", "wanted"), [(1.0, 760), (0.5, 380), (0.333, 253), (0.001, 0)])
def test_a_share_of_the_masked_tokens_is_exact_and_nested(ratio: float, wanted: int) -> None:
    assert decoded_count(760, ratio) == wanted
    for seed in range(20):
        visible, masked = split_tokens(seed, 800, 0.95)
        same, chosen = split_tokens(seed, 800, 0.95, ratio)
        assert same.tolist() == visible.tolist()
        assert len(chosen) == wanted and list(chosen) == sorted(chosen)
        assert set(chosen) <= set(masked) & set(split_tokens(seed, 800, 0.95, min(1.0, 2 * ratio))[1])


def test_every_masked_token_is_chosen_equally_often() -> None:
    chosen = np.zeros(50)
    for seed in range(2000):
        chosen[split_tokens(seed, 50, 0.8, 0.5)[1]] += 1
    # 2000 draws at probability 0.4: standard deviation 22.
    assert abs(chosen - 800).max() < 5 * 22
