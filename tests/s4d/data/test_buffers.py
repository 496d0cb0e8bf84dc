"""Shared pixel buffers: written again only when everyone has let go of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from s4d.data import buffers, handover

SHAPE = (3, 1 << 16)
Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    """This process as a decoding process that sends to itself."""
    monkeypatch.setattr(buffers, "_kept", [])
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        yield one, other


def passed_on(value: object, ends: Ends) -> Any:
    handover.send(ends[0], 7, value)
    answer = handover.receive(ends[1])
    assert answer is not None
    assert answer[0] == 7
    return answer[1]


def kept() -> list[buffers.SharedBuffer]:
    assert buffers._kept is not None
    return buffers._kept


def test_memory_is_used_again_when_all_views_are_gone(ends: Ends) -> None:
    pixels = buffers.pixel_buffer(SHAPE)
    pixels.fill_(5)
    here = passed_on({"pixels": pixels}, ends)["pixels"]
    assert torch.equal(here, pixels)
    del pixels
    assert not kept()[0].is_free
    part = here[1, 4:8]
    del here
    second = buffers.pixel_buffer(SHAPE)
    second.fill_(9)
    assert part.tolist() == [5] * 4
    assert len(kept()) == 2
    del part
    assert kept()[0].is_free
    third = buffers.pixel_buffer(SHAPE)
    assert len(kept()) == 2
    assert buffers.buffer_of(third) is kept()[0]


def test_memory_that_was_never_sent_is_used_again(ends: Ends) -> None:
    pixels = buffers.pixel_buffer(SHAPE)
    view = pixels.numpy()[1]
    del pixels
    assert not kept()[0].is_free
    del view
    assert kept()[0].is_free


def test_sender_still_holds_what_the_receiver_let_go(ends: Ends) -> None:
    pixels = buffers.pixel_buffer(SHAPE)
    here = passed_on(pixels, ends)
    del here
    assert not kept()[0].is_free


def test_views_and_other_tensors_arrive(ends: Ends) -> None:
    pixels = buffers.pixel_buffer(SHAPE)
    pixels.copy_(torch.arange(pixels.numel()).view(SHAPE) % 251)
    large = torch.arange(1 << 17, dtype=torch.int64).view(2, -1).T
    sent = (pixels, pixels[1:, 5:], large, large.to(torch.bfloat16), torch.arange(3))
    found = passed_on(sent, ends)
    for one, other in zip(found, sent, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one, other)
    assert found[0].untyped_storage().data_ptr() == found[1].untyped_storage().data_ptr()


def test_few_buffers_are_kept_and_sizes_may_vary(ends: Ends) -> None:
    held = [buffers.pixel_buffer((1000 + number,)) for number in range(2 * buffers.KEPT)]
    assert len(kept()) == buffers.KEPT
    assert len({tensor.data_ptr() for tensor in held}) == len(held)
    del held
    assert buffers.buffer_of(buffers.pixel_buffer((900,))) is kept()[0]
    large = buffers.pixel_buffer((1 << 20,))
    assert buffers.buffer_of(large) is kept()[-1]
    assert len(kept()) == buffers.KEPT


def test_a_larger_buffer_serves_a_smaller_tensor(ends: Ends) -> None:
    passed_on(torch.arange(1 << 16), ends)
    assert kept()[0].is_free
    smaller = torch.arange(50_000)
    assert torch.equal(passed_on(smaller, ends), smaller)
    assert len(kept()) == 1
