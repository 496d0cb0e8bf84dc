"""Cases of varlen attention: the lengths and batches of the released configurations, and a sweep over lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.attention import BACKENDS, varlen_attention
from kernels.bench import floors
from kernels.bench.records import HALF_ONLY, USUAL_DTYPES, Case
from kernels.varlen import Layout, cu_seqlens_from_layout

_EVERYWHERE = frozenset({"cpu", "cuda"})
_SWEEP_LENGTHS = (10, 20, 40, 64, 100, 200, 400, 800)
# Tokens of a sweep case, so that the work of the linear layers around it would stay the same.
_SWEEP_TOKENS = {"cpu": 3200, "cuda": 64000}
_SWEEP_PEERS = frozenset({*BACKENDS, "sdpa_per_modality", "sdpa_flash", "torch_varlen", "xformers", "bmm_whole"})
# Scores of the float64 definition held at once.
_MOST_SCORES = 1 << 27
_SEED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionInputs:
    """``qkv`` (T, 3, H, D), the upstream gradient (T, H, D), and the borders of the sequences."""

    qkv: Tensor
    upstream: Tensor
    cu_seqlens: Tensor
    layout: Layout
    max_seqlen: int

    @property
    def scale(self) -> float:
        """The usual factor of the scores."""
        return float(self.qkv.shape[3] ** -0.5)


def make_inputs(layout: Layout, heads: int, head_dim: int, device: torch.device, dtype: torch.dtype) -> AttentionInputs:
    """Unit normal operands of a packed batch."""
    generator = torch.Generator(device=device).manual_seed(_SEED)
    total = sum(count * length for count, length in layout)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device, dtype=torch.float32).to(dtype)

    return AttentionInputs(
        qkv=normal(total, 3, heads, head_dim),
        upstream=normal(total, heads, head_dim),
        cu_seqlens=cu_seqlens_from_layout(layout, device),
        layout=layout,
        max_seqlen=max(length for _, length in layout),
    )


def _case(
    name: str,
    layout: Layout,
    heads: int,
    defaults: frozenset[str],
    *,
    axes: dict[str, int] | None = None,
    head_dim: int = 64,
    peers: frozenset[str] | None = None,
) -> Case:
    return Case(
        name=name,
        op="attention",
        inputs=lambda device, dtype: make_inputs(layout, heads, head_dim, device, dtype),
        floors=lambda dtype: floors.attention(layout, heads, head_dim, dtype.itemsize),
        defaults=defaults,
        axes=axes or {},
        dtypes=USUAL_DTYPES if peers is None else HALF_ONLY,
        peers=peers,
        peers_reason="left out of the sweep over lengths",
    )


def _cases() -> Iterator[Case]:
    gpu, cpu = frozenset({"cuda"}), frozenset({"cpu"})
    # Encoder of ViT-B: 12 heads of 64; decoder: 6.
    yield _case("mix10_40", ((192, 10), (192, 40)), 12, _EVERYWHERE)
    yield _case("only10", ((192, 10),), 12, gpu)
    yield _case("only40", ((192, 40),), 12, gpu)
    yield _case("len100", ((192, 100),), 6, gpu)
    yield _case("len800", ((192, 800),), 6, gpu)
    yield _case("mix100_800", ((192, 100), (192, 800)), 6, gpu)
    yield _case("mix100_800_small", ((16, 100), (4, 800)), 12, cpu)
    # Encoder of the demonstration and its decoder, for the table beside the backends.
    yield _case("demo6x64", ((64, 36), (16, 144)), 6, frozenset())
    yield _case("demo4x32", ((64, 36), (16, 144)), 4, frozenset(), head_dim=32)
    yield _case("tiny", ((2, 3), (2, 5)), 2, frozenset(), axes={"length": 4}, head_dim=32)
    for device, tokens in _SWEEP_TOKENS.items():
        for length in _SWEEP_LENGTHS:
            yield _case(
                f"sweep{length}_{device}",
                ((tokens // length, length),),
                12,
                frozenset({device}),
                axes={"length": length},
                peers=_SWEEP_PEERS,
            )


CASES = {case.name: case for case in _cases()}


def expected(inputs: AttentionInputs, dtype: torch.dtype) -> dict[str, Tensor]:
    """Output and gradient in ``dtype``: written out, a few sequences at a time."""
    heads, head_dim = inputs.qkv.shape[2:]
    outputs: list[Tensor] = []
    gradients: list[Tensor] = []
    first = 0
    for count, length in inputs.layout:
        step = max(1, _MOST_SCORES // (heads * length * length))
        for start in range(0, count, step):
            rows = slice(first + start * length, first + min(count, start + step) * length)
            leaf = inputs.qkv[rows].to(dtype).requires_grad_()
            q, k, v = leaf.view(-1, length, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
            out = (torch.softmax(q @ k.mT * inputs.scale, -1) @ v).transpose(1, 2).flatten(0, 1)
            gradients += torch.autograd.grad(out, leaf, inputs.upstream[rows].to(dtype))
            outputs.append(out.detach())
        first += count * length
    return {"output": torch.cat(outputs), "d_qkv": torch.cat(gradients)}


def call_backend(inputs: AttentionInputs, leaf: Tensor, backend: str | None) -> Tensor:
    """The op on ``leaf`` (T, 3, H, D) with the borders of ``inputs``."""
    return varlen_attention(leaf, inputs.cu_seqlens, inputs.max_seqlen, layout=inputs.layout, backend=backend)
