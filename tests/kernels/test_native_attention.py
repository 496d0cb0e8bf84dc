"""bfloat16 attention of the native library, where the tests of all backends compute in other dtypes."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

import kernels.native as native
from kernels.attention import BACKENDS, varlen_attention
from kernels.numerics import check
from kernels.varlen import Layout, cu_seqlens_from_layout

pytestmark = pytest.mark.skipif(
    native.attention_refuses(64) is not None, reason=f"native attention: {native.attention_refuses(64)}"
)
FACTS = {"device": "cpu", "dtype": torch.bfloat16, "head_dim": 64, "layout_known": True}


def packed(layout: Layout, heads: int = 2, dim: int = 64) -> tuple[Tensor, Tensor]:
    """Random qkv (T, 3, H, D) and an upstream gradient (T, H, D)."""
    total = sum(count * length for count, length in layout)
    return torch.randn(total, 3, heads, dim).bfloat16(), torch.randn(total, heads, dim).bfloat16()


def attend(
    qkv: Tensor, upstream: Tensor, layout: Layout, backend: str = "native", scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Output and gradient."""
    leaf = qkv.detach().requires_grad_()
    longest = max((length for _, length in layout), default=0)
    out = varlen_attention(leaf, cu_seqlens_from_layout(layout), longest, scale=scale, backend=backend)
    out.backward(upstream)
    assert leaf.grad is not None
    return out.detach(), leaf.grad


# Lengths about the tiles: 16 keys to a register, blocks of 24 and 48 queries.
@pytest.mark.parametrize("dim", [16, 32, 48, 64, 80, 128, 256])
@pytest.mark.parametrize("lengths", [(1, 2, 15, 16, 17, 0, 23), (24, 25, 31, 33), (47, 48, 49), (95, 97), (200,)])
def test_lengths_and_head_dims(lengths: tuple[int, ...], dim: int) -> None:
    layout = tuple((1, length) for length in lengths)
    qkv, upstream = packed(layout, dim=dim)
    expected = attend(qkv.double(), upstream.double(), layout, "reference")
    plain = attend(qkv, upstream, layout, "grouped")
    for kernel, rival, reference in zip(attend(qkv, upstream, layout), plain, expected, strict=True):
        check(kernel, rival, reference, torch.bfloat16, name=f"{lengths} {dim}")


def test_large_scores_neither_overflow_nor_vanish() -> None:
    layout = ((3, 20),)
    qkv, upstream = packed(layout)
    qkv[:, :2] *= 30
    ours, expected = attend(qkv, upstream, layout), attend(qkv.double(), upstream.double(), layout, "reference")
    for kernel, rival, reference in zip(ours, attend(qkv, upstream, layout, "grouped"), expected, strict=True):
        check(kernel, rival, reference, torch.bfloat16)


def test_layout_in_memory_does_not_matter() -> None:
    layout = ((2, 5), (1, 18))
    qkv, upstream = packed(layout)
    expected = attend(qkv, upstream, layout, scale=0.3)
    shifted = torch.zeros(qkv.numel() + 1, dtype=torch.bfloat16)[1:].view(qkv.shape).copy_(qkv)
    assert shifted.data_ptr() % 4 == 2
    views = {
        "heads first": qkv.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3),
        "every second token": torch.stack((qkv, qkv * float("nan")), 1).flatten(0, 1)[::2],
        "head_dim slow": qkv.transpose(0, 3).contiguous().transpose(0, 3),
        "on odd addresses": shifted,
    }
    for name, view in views.items():
        for found, wanted in zip(attend(view, upstream, layout, scale=0.3), expected, strict=True):
            assert torch.equal(found, wanted), name
    for gradient in (upstream[:1].expand_as(upstream), upstream.transpose(0, 2).contiguous().transpose(0, 2)):
        found, wanted = (attend(qkv, g, layout)[1] for g in (gradient, gradient.contiguous()))
        assert torch.equal(found, wanted)


def test_packing_equals_apart() -> None:
    first, second = ((2, 40),), ((3, 17),)
    qkv, upstream = packed((*first, *second))
    whole = attend(qkv, upstream, (*first, *second))
    parts = attend(qkv[:80], upstream[:80], first), attend(qkv[80:], upstream[80:], second)
    for together, *apart in zip(whole, *parts, strict=True):
        assert torch.equal(together, torch.cat(apart))


def test_poison_stays_in_its_sequence() -> None:
    layout = ((3, 6), (2, 51))
    qkv, upstream = packed(layout)
    clean = attend(qkv, upstream, layout)
    qkv[6:12] = float("nan")
    qkv[18:69] = float("inf")
    untouched = torch.ones(120, dtype=torch.bool)
    untouched[6:12] = untouched[18:69] = False
    for before, after in zip(clean, attend(qkv, upstream, layout), strict=True):
        assert torch.equal(before[untouched], after[untouched])
        assert after[~untouched].isnan().any(-1).all()


def test_threads_change_nothing() -> None:
    layout = ((40, 10), (3, 100))
    qkv, upstream = packed(layout)
    one = attend(qkv, upstream, layout)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        three = attend(qkv, upstream, layout)
    finally:
        torch.set_num_threads(threads)
    for alone, together in zip(one, three, strict=True):
        assert torch.equal(alone, together)


def test_nothing_to_do() -> None:
    for layout in ((), ((3, 0),)):
        out, grad = attend(*packed(layout), layout)
        assert (out.shape, grad.shape) == ((0, 2, 64), (0, 3, 2, 64))


def test_custom_ops_pass_opcheck_and_compile() -> None:
    layout = ((2, 3), (1, 5))
    qkv, upstream = packed(layout)
    shared = (cu_seqlens_from_layout(layout), 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # opcheck traces with interfaces that torch itself deprecates
        torch.library.opcheck(torch.ops.s4d.native_attention.default, (qkv.clone().requires_grad_(), *shared))
        torch.library.opcheck(torch.ops.s4d.native_attention_backward.default, (upstream, qkv, *shared))
    compiled = torch.compile(
        lambda x: varlen_attention(x * 2, shared[0], 5, backend="native"), fullgraph=True, backend="aot_eager"
    )
    leaf = qkv.clone().requires_grad_()
    out = compiled(leaf)
    out.backward(upstream)
    expected_out, expected_grad = attend(qkv * 2, upstream, layout)
    assert torch.equal(out, expected_out) and torch.equal(leaf.grad, expected_grad * 2)


def test_wrong_borders_are_refused() -> None:
    qkv, _ = packed(((1, 6),))
    for borders, message in (
        ([0, 3, 5], "expected to run from 0 to 6, got 0 to 5"),
        ([0, 3, 7], "expected to run from 0 to 6, got 0 to 7"),
        ([1, 6], "expected to run from 0 to 6, got 1 to 6"),
        ([0, 5, 2, 6], "expected to rise, got a step of -3"),
    ):
        with pytest.raises(ValueError, match=message):
            varlen_attention(qkv, torch.tensor(borders, dtype=torch.int32), 6, backend="native")


def test_row_serves_what_it_can_and_says_why_not() -> None:
    refuse = BACKENDS["native"].refuse
    assert refuse(FACTS) is None and next(iter(BACKENDS)) == "native"
    assert refuse(FACTS | {"device": "cuda"}) == "serves CPU tensors, not cuda"
    assert refuse(FACTS | {"dtype": torch.float16}) == "multiplies bfloat16, not torch.float16"
    for dim in (8, 72, 512):
        assert refuse(FACTS | {"head_dim": dim}) == "head_dim is not a multiple of 16 up to 256"
