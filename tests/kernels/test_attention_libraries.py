"""Attention by other libraries: why they refuse where they cannot run, and parity where they can."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import kernels.attention.torch_varlen as torch_varlen
import kernels.attention.xformers as xformers
from kernels.attention import BACKENDS, varlen_attention
from kernels.backends import BackendRefusedError
from kernels.numerics import check
from kernels.varlen import Layout, cu_seqlens_from_layout

LIBRARIES = ("xformers", "torch_varlen")
LAYOUTS: list[Layout] = [((6, 10), (3, 40)), ((2, 0), (3, 7), (1, 0), (2, 13), (1, 1)), ((4, 100), (2, 800))]
FACTS = {"device": "cuda", "dtype": torch.bfloat16, "head_dim": 64, "layout_known": True}


def attend(qkv: torch.Tensor, upstream: torch.Tensor, layout: Layout, **options: object) -> tuple[torch.Tensor, ...]:
    leaf = qkv.detach().requires_grad_()
    cu_seqlens = cu_seqlens_from_layout(layout, qkv.device)
    out = varlen_attention(leaf, cu_seqlens, max(length for _, length in layout), layout=layout, **options)
    return (out.detach(), *torch.autograd.grad(out, leaf, upstream))


@pytest.mark.parametrize("name", LIBRARIES)
def test_never_chosen_automatically(name: str) -> None:
    """Their backward does not repeat to the bit, which is part of the op."""
    order = list(BACKENDS)
    assert order.index(name) > order.index("reference")
    assert BACKENDS["reference"].refuse(FACTS | {"layout_known": False}) is None


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_cpu_call_is_refused(name: str) -> None:
    with pytest.raises(BackendRefusedError, match=f"'{name}' cannot serve this call: serves CUDA tensors, not cpu"):
        attend(torch.zeros(2, 3, 1, 8), torch.zeros(2, 1, 8), ((1, 2),), backend=name)


def test_the_table_imports_no_library() -> None:
    code = (
        "import sys; from kernels.attention import BACKENDS; facts = {'device': 'cpu', 'layout_known': True}\n"
        f"assert all('not cpu' in BACKENDS[name].refuse(facts) for name in {LIBRARIES})\n"
        "assert not {'xformers', 'torch.nn.attention.varlen'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_xformers_needs_the_lengths() -> None:
    reason = xformers.xformers_refuses(FACTS | {"layout_known": False})
    assert reason == "layout is unknown and the mask needs the lengths on the host"


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU answers")
def test_missing_operators_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    for reason in (xformers.missing_xformers(), torch_varlen.missing_torch_varlen()):
        assert reason is not None and "\n" not in reason
    assert "built without FlashAttention" in (torch_varlen.missing_torch_varlen() or "")
    assert (xformers.missing_xformers() or "").startswith("xformers ")
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU answers")
def test_why_no_operator_serves() -> None:
    pytest.importorskip("xformers")
    reason = xformers.no_operator("cpu", torch.float16, 64) or ""
    assert reason.startswith("no forward operator: device=cpu")
    assert "query" not in reason and "\n" not in reason


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (xformers, torch_varlen):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert xformers.missing_xformers.__wrapped__() == "xformers is not installed"
    assert "has no torch.nn.attention.varlen" in torch_varlen.missing_torch_varlen.__wrapped__()


@pytest.mark.parametrize(
    ("dtype", "head_dim", "expected"),
    [
        (torch.bfloat16, 64, None),
        (torch.float16, 80, None),
        (torch.float32, 64, "computes in float16 and bfloat16, not torch.float32"),
        (torch.float16, 20, "needs a head_dim that 8 divides, at most 256, not 20"),
        (torch.float16, 264, "needs a head_dim that 8 divides"),
    ],
)
def test_what_flash_attention_computes(dtype: torch.dtype, head_dim: int, expected: str | None) -> None:
    found = torch_varlen.unsupported(dtype, head_dim)
    assert found == expected if expected is None else found is not None and found.startswith(expected)


def test_the_mask_holds_the_tensor_on_the_device() -> None:
    pytest.importorskip("xformers")
    cu_seqlens = cu_seqlens_from_layout(LAYOUTS[1])
    mask = xformers.block_diagonal_mask(LAYOUTS[1], cu_seqlens)
    assert mask.q_seqinfo.seqstart is cu_seqlens
    assert mask.k_seqinfo.seqstart is cu_seqlens
    assert mask.q_seqinfo.seqstart_py == cu_seqlens.tolist()
    assert mask.q_seqinfo.max_seqlen == 13


@pytest.mark.parametrize("scale", [0.25, 64**-0.5])
@pytest.mark.parametrize("takes_scale", [True, False])
def test_versions_of_torch_with_and_without_a_scale(
    takes_scale: bool, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a stand-in for the CUDA operator, which this torch lacks."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")

    def stand_in(q, k, v, cu_q, cu_k, max_q, max_k, **options):  # type: ignore[no-untyped-def]
        assert ("scale" in options) is takes_scale
        qkv = torch.stack((q, k, v), 1)
        return varlen_attention(qkv, cu_q, max_q, scale=options.get("scale"), backend="reference")

    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    monkeypatch.setattr(torch_varlen, "_takes_scale", lambda: takes_scale)
    qkv = torch.randn(13, 64, 3, 2).permute(0, 2, 3, 1)
    cu_seqlens = cu_seqlens_from_layout(((2, 4), (1, 5)))
    ours = torch_varlen.torch_varlen_attention(qkv, cu_seqlens, 5, layout=None, scale=scale)
    expected = varlen_attention(qkv, cu_seqlens, 5, scale=scale, backend="reference")
    torch.testing.assert_close(ours, expected)


def test_no_tokens() -> None:
    qkv, cu_seqlens = torch.zeros(0, 3, 2, 8, requires_grad=True), torch.zeros(1, dtype=torch.int32)
    for function in (xformers.xformers_attention, torch_varlen.torch_varlen_attention):
        out = function(qkv, cu_seqlens, 0, layout=(), scale=1.0)
        assert out.shape == (0, 2, 8)
        assert torch.autograd.grad(out.sum(), qkv)[0].shape == qkv.shape


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [64, 80])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LIBRARIES)
def test_parity(name: str, layout: Layout, dtype: torch.dtype, head_dim: int) -> None:
    """A library is itself plain PyTorch: held to the RMS bound and the pattern."""
    reason = BACKENDS[name].refuse(FACTS | {"dtype": dtype, "head_dim": head_dim})
    if reason is not None:
        pytest.skip(reason)
    total = sum(count * length for count, length in layout)
    qkv = torch.randn(total, 3, 2, head_dim, device="cuda").to(dtype)
    upstream = torch.randn(total, 2, head_dim, device="cuda").to(dtype)
    expected = attend(qkv.double(), upstream.double(), layout, backend="reference")
    for view in (qkv, qkv.transpose(0, 3).contiguous().transpose(0, 3)):
        ours = attend(view, upstream, layout, backend=name)
        for part, found, reference in zip(("output", "gradient"), ours, expected, strict=True):
            check(found, found, reference, dtype, name=f"{name} {layout} {part}")


@pytest.mark.gpu
def test_torch_varlen_takes_any_scale() -> None:
    reason = BACKENDS["torch_varlen"].refuse(FACTS)
    if reason is not None:
        pytest.skip(reason)
    qkv, upstream = (torch.randn(30, *size, 64, device="cuda").half() for size in ((3, 2), (2,)))
    expected = attend(qkv.double(), upstream.double(), ((3, 10),), scale=0.5, backend="reference")
    for found, reference in zip(
        attend(qkv, upstream, ((3, 10),), scale=0.5, backend="torch_varlen"), expected, strict=True
    ):
        check(found, found, reference, torch.float16, name="scale 0.5")
