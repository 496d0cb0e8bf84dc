from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from kernels.varlen import (
    check_layout,
    cu_seqlens_from_layout,
    cu_seqlens_from_seqlens,
    detect_layout,
    layout_groups,
    positions,
    seqlens,
    sequence_ids,
)

LENGTHS = [[], [0], [0, 0], [5], [3, 3, 3], [0, 4, 0, 0, 2, 2, 1, 0]]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_lengths_round_trip(lengths: list[int]) -> None:
    cu_seqlens = cu_seqlens_from_seqlens(torch.tensor(lengths, dtype=torch.int32))
    assert cu_seqlens.dtype == torch.int32
    assert cu_seqlens.tolist() == [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    assert seqlens(cu_seqlens).tolist() == lengths


@pytest.mark.parametrize("lengths", LENGTHS)
def test_ids_and_positions(lengths: list[int]) -> None:
    cu_seqlens = cu_seqlens_from_seqlens(torch.tensor(lengths, dtype=torch.int32))
    assert sequence_ids(cu_seqlens, sum(lengths)).tolist() == [i for i, n in enumerate(lengths) for _ in range(n)]
    assert positions(cu_seqlens, sum(lengths)).tolist() == [j for n in lengths for j in range(n)]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_layout_round_trip(lengths: list[int]) -> None:
    cu_seqlens = cu_seqlens_from_seqlens(torch.tensor(lengths, dtype=torch.int32))
    layout = detect_layout(cu_seqlens, sum(lengths))
    assert [n for count, n in layout for _ in range(count)] == lengths
    assert all(left[1] != right[1] for left, right in pairwise(layout))
    assert torch.equal(cu_seqlens_from_layout(layout), cu_seqlens)
    check_layout(layout, num_sequences=len(lengths), total_tokens=sum(lengths), max_seqlen=max(lengths, default=0))


def test_layout_groups_skip_empty_runs() -> None:
    assert list(layout_groups(((2, 0), (3, 4), (0, 9), (1, 5)))) == [(0, 3, 4), (12, 1, 5)]


@pytest.mark.parametrize("layout", [((2, 3),), ((1, 3), (1, 4)), ((3, 2),), ((2, -3), (4, 3))])
def test_layout_that_disagrees_is_refused(layout: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="layout"):
        check_layout(layout, num_sequences=2, total_tokens=7, max_seqlen=3)


@pytest.mark.parametrize(
    ("borders", "message"),
    [
        ([0, 3, 6], "run from 0 to 7, got 0 to 6"),
        ([1, 7], "got 1 to 7"),
        ([0, 9, 7], "expected to rise, got a step of -2"),
    ],
)
def test_cu_seqlens_that_do_not_fit_are_refused(borders: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detect_layout(torch.tensor(borders, dtype=torch.int32), 7)


def test_lengths_must_be_integers() -> None:
    with pytest.raises(ValueError, match="expected integers"):
        cu_seqlens_from_seqlens(torch.ones(3))
