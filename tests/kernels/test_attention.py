"""Every backend of the attention table against the definition, which itself passes gradcheck."""

from __future__ import annotations

import warnings

import pytest
import torch

import kernels.attention.grouped as grouped
from kernels.attention import BACKENDS, varlen_attention
from kernels.backends import Facts
from kernels.numerics import check
from kernels.varlen import Layout, check_layout, cu_seqlens_from_layout, detect_layout

RIVALS = [name for name in BACKENDS if name != "reference"]
# A library call is itself plain PyTorch: held to the RMS bound and the pattern, not to twice another formula's error
# (float32, length 1: 1.7e-7 in its gradient where the formula written out is exact).
PLAIN = {"sdpa"}
LAYOUTS: dict[str, Layout] = {
    "one token": ((1, 1),),
    "ones": ((7, 1),),
    "short mix": ((6, 10), (3, 40)),
    "primes and empties": ((2, 0), (3, 7), (1, 0), (2, 13), (1, 31), (1, 1), (2, 0)),
    "odd": ((5, 9), (2, 101)),
    "all different": ((1, 3), (1, 17), (1, 2), (1, 64), (1, 65)),
}


def packed(layout: Layout, dtype: torch.dtype, heads: int = 3, dim: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Random qkv (T, 3, H, D) and an upstream gradient (T, H, D), rounded to ``dtype``."""
    total = sum(count * length for count, length in layout)
    qkv = torch.randn(total, 3, heads, dim, dtype=torch.float64).to(dtype)
    return qkv, torch.randn(total, heads, dim, dtype=torch.float64).to(dtype)


def usable(name: str, dtype: torch.dtype, dim: int = 64) -> None:
    """Skip with its reason what the backend refuses."""
    facts: Facts = {"device": "cpu", "dtype": dtype, "head_dim": dim, "layout_known": True}
    reason = BACKENDS[name].refuse(facts)
    if reason is not None:
        pytest.skip(reason)


def attend(
    qkv: torch.Tensor,
    upstream: torch.Tensor,
    layout: Layout,
    backend: str,
    *,
    known: bool = True,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and gradient of one backend."""
    usable(backend, qkv.dtype, qkv.shape[3])
    leaf = qkv.detach().requires_grad_()
    longest = max((length for _, length in layout), default=0)
    cu_seqlens = cu_seqlens_from_layout(layout)
    out = varlen_attention(leaf, cu_seqlens, longest, layout=layout if known else None, scale=scale, backend=backend)
    out.backward(upstream)
    assert leaf.grad is not None
    return out.detach(), leaf.grad


def native(qkv: torch.Tensor, upstream: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """The same formula in plain PyTorch in the working dtype, sequence by sequence."""
    leaf = qkv.detach().requires_grad_()
    outputs = []
    for sequence in leaf.split([length for count, length in layout for _ in range(count)]):
        q, k, v = sequence.permute(1, 2, 0, 3)
        outputs.append((torch.softmax(q @ k.mT * qkv.shape[-1] ** -0.5, -1) @ v).transpose(0, 1))
    out = torch.cat(outputs)
    out.backward(upstream)
    assert leaf.grad is not None
    return out.detach(), leaf.grad


@pytest.mark.parametrize("known", [True, False], ids=["layout", "cu_seqlens"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_against_float64_definition(backend: str, name: str, dtype: torch.dtype, known: bool) -> None:
    layout = LAYOUTS[name]
    qkv, upstream = packed(layout, dtype)
    expected = attend(qkv.double(), upstream.double(), layout, "reference")
    ours = attend(qkv, upstream, layout, backend, known=known)
    plain = ours if backend in PLAIN else native(qkv, upstream, layout)
    for part, kernel, rival, reference in zip(("output", "gradient"), ours, plain, expected, strict=True):
        assert kernel.dtype == dtype
        check(kernel, rival, reference, dtype, name=f"{backend} {name} {part}")


@pytest.mark.parametrize("dim", [32, 64, 80, 128])
@pytest.mark.parametrize("backend", RIVALS)
def test_head_dims(backend: str, dim: int) -> None:
    # So many tokens that the largest errors of two computations are alike; of 30, one had 3 times the other's.
    layout = ((8, 5), (6, 20))
    qkv, upstream = packed(layout, torch.float32, heads=2, dim=dim)
    expected = attend(qkv.double(), upstream.double(), layout, "reference")
    ours = attend(qkv, upstream, layout, backend)
    plain = ours if backend in PLAIN else native(qkv, upstream, layout)
    for kernel, rival, reference in zip(ours, plain, expected, strict=True):
        check(kernel, rival, reference, torch.float32, name=f"{backend} {dim}")


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("backend", RIVALS)
def test_float64(backend: str, name: str, scale: float | None) -> None:
    qkv, upstream = packed(LAYOUTS[name], torch.float64, dim=8)
    expected = attend(qkv, upstream, LAYOUTS[name], "reference", scale=scale)
    for kernel, reference in zip(attend(qkv, upstream, LAYOUTS[name], backend, scale=scale), expected, strict=True):
        torch.testing.assert_close(kernel, reference, atol=1e-13, rtol=1e-12)


def test_gradcheck_of_the_definition() -> None:
    layout = ((1, 0), (2, 2), (1, 3), (1, 1))
    qkv = packed(layout, torch.float64, heads=2, dim=4)[0].requires_grad_()
    cu_seqlens = cu_seqlens_from_layout(layout)
    assert torch.autograd.gradcheck(
        lambda x: varlen_attention(x, cu_seqlens, 3, layout=layout, backend="reference"), (qkv,)
    )


def test_definition_is_dense_attention_under_a_block_diagonal_mask() -> None:
    layout = ((2, 5), (1, 0), (1, 9))
    qkv, _ = packed(layout, torch.float64)
    ids = torch.tensor([0] * 5 + [1] * 5 + [2] * 9)
    q, k, v = qkv.permute(1, 2, 0, 3)
    scores = (q @ k.mT * 32**-0.5).masked_fill(ids[:, None] != ids, -torch.inf)
    out = varlen_attention(qkv, cu_seqlens_from_layout(layout), 9, backend="reference")
    torch.testing.assert_close(out, (scores.softmax(-1) @ v).transpose(0, 1), atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("block_bytes", [1, 4 * 9 * 9, 4 * 9 * 9 * 2, 4 * 9 * 9 * 3, 4 * 9 * 9 * 7, 1 << 30])
def test_grouped_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    layout = ((5, 9), (2, 3), (1, 20))
    qkv, upstream = packed(layout, torch.float32)
    expected = attend(qkv, upstream, layout, "reference")
    monkeypatch.setattr(grouped, "_CPU_BLOCK_BYTES", block_bytes)
    for kernel, reference in zip(attend(qkv, upstream, layout, "grouped"), expected, strict=True):
        torch.testing.assert_close(kernel, reference, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_packing_equals_apart_and_order_does_not_matter(backend: str) -> None:
    first, second = ((2, 4),), ((3, 7),)
    qkv, upstream = packed((*first, *second), torch.float64)
    whole = attend(qkv, upstream, (*first, *second), backend)
    head = attend(qkv[:8], upstream[:8], first, backend)
    tail = attend(qkv[8:], upstream[8:], second, backend)
    swapped = attend(qkv.roll(-8, 0), upstream.roll(-8, 0), (*second, *first), backend)
    for together, left, right, moved in zip(whole, head, tail, swapped, strict=True):
        torch.testing.assert_close(together, torch.cat((left, right)), atol=1e-14, rtol=1e-12)
        torch.testing.assert_close(together, torch.cat((moved[-8:], moved[:-8])), atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_poison_stays_in_its_sequence(backend: str) -> None:
    layout = ((3, 6), (2, 11))
    qkv, upstream = packed(layout, torch.float32)
    clean = attend(qkv, upstream, layout, backend)
    qkv[6:12] = float("nan")
    qkv[18:29] = float("inf")
    dirty = attend(qkv, upstream, layout, backend)
    untouched = torch.ones(40, dtype=torch.bool)
    untouched[6:12] = untouched[18:29] = False
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(before[untouched], after[untouched])
        assert after[~untouched].isnan().any(-1).all()


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_scratch_is_read_before_it_is_written(backend: str, dtype: torch.dtype) -> None:
    qkv, upstream = packed(LAYOUTS["primes and empties"], dtype)
    for result in attend(qkv, upstream, LAYOUTS["primes and empties"], backend):
        assert result.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_repeats_to_the_bit(backend: str, dtype: torch.dtype) -> None:
    layout = ((9, 10), (3, 40))
    qkv, upstream = packed(layout, dtype)
    first = attend(qkv, upstream, layout, backend)
    for _ in range(5):
        for one, other in zip(first, attend(qkv, upstream, layout, backend), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_inputs(backend: str) -> None:
    layout = ((2, 5), (1, 8))
    qkv, upstream = packed(layout, torch.float64)
    expected = attend(qkv, upstream, layout, backend)
    views = {
        "heads first": qkv.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3),
        "every second token": torch.stack((qkv, qkv * float("nan")), 1).flatten(0, 1)[::2],
        "head_dim slow": qkv.transpose(0, 3).contiguous().transpose(0, 3),
    }
    for name, view in views.items():
        assert not view.is_contiguous(), name
        for kernel, reference in zip(attend(view, upstream, layout, backend), expected, strict=True):
            torch.testing.assert_close(kernel, reference, atol=1e-13, rtol=1e-12)
    expanded = upstream[:1].expand_as(upstream)
    for kernel, reference in zip(
        attend(qkv, expanded, layout, backend), attend(qkv, expanded.contiguous(), layout, backend), strict=True
    ):
        torch.testing.assert_close(kernel, reference, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("layout", [(), ((3, 0),)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_tokens(backend: str, layout: Layout) -> None:
    for known in (True, False):
        out, grad = attend(torch.zeros(0, 3, 2, 8), torch.zeros(0, 2, 8), layout, backend, known=known)
        assert (out.shape, grad.shape) == ((0, 2, 8), (0, 3, 2, 8))


def test_detected_layout_serves_like_the_given_one() -> None:
    layout = LAYOUTS["primes and empties"]
    detected = detect_layout(cu_seqlens_from_layout(layout), 79)
    assert [run for run in detected if run[1]] == [run for run in layout if run[1]]
    check_layout(detected, num_sequences=12, total_tokens=79, max_seqlen=31)


@pytest.mark.parametrize("known", [True, False])
def test_custom_ops_pass_opcheck(known: bool) -> None:
    layout = ((2, 3), (1, 5))
    qkv, upstream = packed(layout, torch.float32, heads=2, dim=8)
    shared = (cu_seqlens_from_layout(layout), [2, 3, 1, 5] if known else None, 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # opcheck traces with interfaces that torch itself deprecates
        torch.library.opcheck(torch.ops.s4d.grouped_attention.default, (qkv.requires_grad_(), *shared))
        torch.library.opcheck(torch.ops.s4d.grouped_attention_backward.default, (upstream, qkv.detach(), *shared))


def test_grouped_compiles_into_one_graph() -> None:
    layout = ((2, 3), (1, 5))
    qkv, upstream = packed(layout, torch.float32)
    cu_seqlens = cu_seqlens_from_layout(layout)
    compiled = torch.compile(
        lambda x: varlen_attention(x * 2, cu_seqlens, 5, layout=layout), fullgraph=True, backend="aot_eager"
    )
    leaf = qkv.clone().requires_grad_()
    out = compiled(leaf)
    out.backward(upstream)
    expected_out, expected_grad = attend(qkv * 2, upstream, layout, "grouped")
    assert torch.equal(out, expected_out)
    assert torch.equal(leaf.grad, expected_grad * 2)


def test_gradient_flows_only_where_asked() -> None:
    qkv, _ = packed(((2, 3),), torch.float32)
    cu_seqlens = cu_seqlens_from_layout(((2, 3),))
    for backend in ("grouped", "sdpa", "reference"):
        assert not varlen_attention(qkv, cu_seqlens, 3, backend=backend).requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"qkv": torch.zeros(6, 2, 2, 8)},
            r"qkv: expected floating point \(T, 3, H, D\), got torch.float32 \(6, 2, 2, 8\)",
        ),
        ({"qkv": torch.zeros(6, 3, 2, 8, dtype=torch.int64)}, "qkv: expected floating point"),
        ({"cu_seqlens": torch.tensor([0, 3, 6])}, r"cu_seqlens: expected int32 \(B\+1,\), got torch.int64 \(3,\)"),
        ({"cu_seqlens": torch.zeros(0, dtype=torch.int32)}, "cu_seqlens: expected int32"),
        ({"max_seqlen": -1}, "max_seqlen: expected a non-negative integer, got -1"),
        ({"layout": ((2, 4),)}, "expected 2 sequences, 6 tokens and lengths up to 3, got 2, 8 and 4"),
        ({"layout": ((6, 1),)}, "expected 2 sequences, 6 tokens"),
        ({"max_seqlen": 2, "layout": ((2, 3),)}, "lengths up to 2, got 2, 6 and 3"),
        ({"backend": "flash"}, f"unknown backend 'flash'; expected one of {', '.join(BACKENDS)}"),
        ({"backend": "reference", "max_seqlen": 2}, "max_seqlen: expected at least 3"),
    ],
)
def test_errors_say_expected_and_got(change: dict[str, object], message: str) -> None:
    arguments = {
        "qkv": torch.zeros(6, 3, 2, 8),
        "cu_seqlens": torch.tensor([0, 3, 6], dtype=torch.int32),
        "max_seqlen": 3,
    } | change
    with pytest.raises(ValueError, match=message):
        varlen_attention(**arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cu_seqlens_that_miss_the_tokens_are_refused(backend: str) -> None:
    usable(backend, torch.bfloat16)
    qkv = torch.zeros(7, 3, 2, 64, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="expected to run from 0 to 7, got 0 to 6"):
        varlen_attention(qkv, torch.tensor([0, 3, 6], dtype=torch.int32), 3, backend=backend)


@pytest.mark.parametrize("backend", ["grouped", "sdpa"])
def test_unknown_layout_is_refused_where_it_would_wait_for_the_device(backend: str) -> None:
    facts = {"device": "cuda", "dtype": torch.bfloat16, "head_dim": 64, "layout_known": False}
    reason = BACKENDS[backend].refuse(facts)
    assert reason is not None and "layout is unknown" in reason
    assert BACKENDS[backend].refuse(facts | {"layout_known": True}) is None
