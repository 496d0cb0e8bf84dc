"""Copies in kept memory hold what was there when they were taken."""

from __future__ import annotations

import pytest
import torch

from engine.host_copies import HostCopies


def test_memory_is_kept_and_copies_are_real() -> None:
    copies = HostCopies(torch.device("cpu"))
    source = torch.arange(6.0)
    first = copies.take("a", source)
    source += 1
    assert first.tolist() == [0, 1, 2, 3, 4, 5]
    second = copies.take("a", source)
    assert second.data_ptr() == first.data_ptr() and second.tolist() == [1, 2, 3, 4, 5, 6]
    assert copies.take("b", source).data_ptr() != first.data_ptr()
    assert copies.take("a", torch.zeros(2, dtype=torch.int64)).dtype is torch.int64


@pytest.mark.gpu
def test_updates_and_reused_memory_come_after_the_copies() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    copies = HostCopies(device)
    live = torch.full((1 << 24,), 1.0, device=device)
    for value in range(1, 6):
        kept = copies.take("live", live)
        gathered = [copies.take(f"gathered {number}", live + number) for number in range(8)]
        copies.hold_updates()
        live += 1
        copies.finish()
        assert bool((kept == value).all())
        assert all(bool((copy == value + number).all()) for number, copy in enumerate(gathered))
