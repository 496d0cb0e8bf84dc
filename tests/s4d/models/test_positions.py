from __future__ import annotations

import math

import torch

from s4d.models.positions import sinusoid_table


def test_values() -> None:
    table = sinusoid_table(800, 768)
    assert (table.shape, table.dtype) == ((800, 768), torch.float32)
    for position, channel in ((0, 0), (0, 1), (799, 0), (123, 76), (799, 767)):
        angle = position / 10000 ** (2 * (channel // 2) / 768)
        expected = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
        # One rounding from float64 to float32.
        assert abs(table[position, channel].item() - expected) <= 2**-24


def test_a_short_table_is_the_start_of_a_long_one() -> None:
    assert torch.equal(sinusoid_table(100, 64), sinusoid_table(800, 64)[:100])
