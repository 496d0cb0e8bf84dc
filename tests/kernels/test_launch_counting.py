"""The counter of device work itself: custom ops are looked into, views and allocations cost nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from compile_kernels import axpy
from launch_counting import counting, saved_bytes
from torch import Tensor

from kernels.launch import launch


def start(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    launch(axpy, (1,), x, out, 2.0, x.numel(), BLOCK=16)
    return out


@pytest.fixture(scope="module")
def twice() -> Iterator[torch.library.CustomOpDef]:
    """An op of two launches and one aten op forward, one launch backward."""

    @torch.library.custom_op("s4d_test::twice", mutates_args=())
    def op(x: Tensor) -> Tensor:
        return start(start(x) + 1).view(-1).view(x.shape)

    @torch.library.custom_op("s4d_test::twice_backward", mutates_args=())
    def backward(upstream: Tensor) -> Tensor:
        return start(upstream)

    op.register_fake(torch.empty_like)
    backward.register_fake(torch.empty_like)
    op.register_autograd(
        lambda ctx, upstream: backward(upstream) * ctx.saved_tensors[0],
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(output, inputs[0]),
    )
    yield op


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_forward_and_backward(twice: torch.library.CustomOpDef, device: str) -> None:
    x = torch.zeros(4, 4, device=device, requires_grad=True)
    with counting() as started:
        output = twice(x)
        assert (started.kernels, dict(started.ops), started.total) == (["axpy", "axpy"], {"add": 1}, 3)
        started.restart()
        torch.autograd.grad(output, x, torch.empty_like(output))
    assert (started.kernels, dict(started.ops)) == (["axpy"], {"mul": 1})
    assert "1 starts" not in started.describe()
    assert not started.waits


def test_waiting_is_seen_inside_an_op() -> None:
    @torch.library.custom_op("s4d_test::waits", mutates_args=())
    def waits(x: Tensor) -> Tensor:
        return x[x > 0] * x.sum().item()

    with counting() as started:
        waits(torch.ones(3))
    assert started.waits == {"nonzero", "_local_scalar_dense"}


def test_composite_ops_count_as_their_parts() -> None:
    @torch.library.custom_op("s4d_test::composite", mutates_args=())
    def composite(x: Tensor) -> Tensor:
        return x.t().contiguous().reshape(-1).contiguous() @ torch.empty(16)

    with counting() as started:
        composite(torch.empty(4, 4))
    assert dict(started.ops) == {"clone": 1, "dot": 1}


def test_bytes_alive() -> None:
    given = torch.empty(1000)
    with counting() as started:
        kept = torch.empty(100)
        first = torch.empty(300)
        first.view(30, 10).add_(given[:10])
        assert (started.live, started.workspace) == (1600, 0)
        del first
        second = torch.empty(50)
        third = torch.empty(60)
        assert (started.live, started.workspace) == (840, 1200)
        del second, third
        assert (started.live, started.workspace) == (400, 1200)
        started.restart()
        del kept
        torch.empty(1)
        assert (started.live, started.workspace) == (0, 4)


def test_a_recorded_launch_keeps_no_tensor_alive() -> None:
    with counting() as started:
        kept = start(start(torch.empty(100)))
        assert (started.live, started.workspace) == (400, 800)
        assert started.launches[0].arguments["x"] == (torch.float32, (100,))
        del kept
        assert started.live == 0


def test_bytes_saved() -> None:
    x, weight = torch.ones(8, 8, requires_grad=True), torch.ones(8, requires_grad=True)
    with saved_bytes(exclude=[weight]) as sizes:
        hidden = (x * weight).exp()
        hidden.square().sum()
    assert sizes == {"float32 (8, 8)": 512}
    assert sum(sizes.values()) == 512
