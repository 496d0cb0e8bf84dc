"""Cases of varlen attention. Letters: T tokens, H heads, D head_dim."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from harness.operation import Named, Operands, Operation
from harness.random_operands import normals
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from kernels.attention import BACKENDS, varlen_attention
from kernels.varlen import Layout, cu_seqlens_from_layout

# Around every tile, and lengths no tile divides.
_TILES = (16, 32, 64, 128)
_LENGTHS = (0, 1, 2, 7, 10, 13, 31, 40, 53, 97, 100, *(tile + step for tile in _TILES for step in (-1, 0, 1)))


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionCase:
    """``known``: the layout is given; ``slack``: how far max_seqlen lies above the longest sequence."""

    layout: Layout
    heads: int = 2
    head_dim: int = 32
    known: bool = True
    scale: float | None = None
    slack: int = 0
    seed: int = 0

    @property
    def tokens(self) -> int:
        """T."""
        return sum(count * length for count, length in self.layout)

    @property
    def lengths(self) -> list[int]:
        """Length of each sequence."""
        return [length for count, length in self.layout for _ in range(count)]


def _up_to(cap: int, runs: list[tuple[int, int]]) -> Layout:
    """The first of ``runs`` that hold at most ``cap`` tokens together."""
    layout, total = [], 0
    for count, length in runs:
        if total + count * length <= cap:
            layout.append((count, length))
            total += count * length
    return tuple(layout)


def _cases(interpreted: bool) -> SearchStrategy[AttentionCase]:
    cap = 150 if interpreted else 400
    run = st.tuples(st.integers(0, 9), st.sampled_from(_LENGTHS))
    short = st.tuples(st.integers(1, 60), st.integers(0, 5))
    return st.builds(
        AttentionCase,
        layout=st.lists(run | short, max_size=7).map(lambda runs: _up_to(cap, runs)),
        heads=st.integers(1, 2 if interpreted else 4),
        head_dim=st.sampled_from((32, 64) if interpreted else (32, 64, 80, 128)),
        known=st.booleans(),
        scale=st.sampled_from((None, None, 0.3, 0.05)),
        slack=st.sampled_from((0, 0, 1, 500)),
        seed=st.integers(0, 2**31),
    )


_EDGES = (
    AttentionCase(layout=()),
    AttentionCase(layout=((3, 0),), known=False),
    AttentionCase(layout=((1, 1),)),
    AttentionCase(layout=((97, 1),), heads=1),
    AttentionCase(layout=((2, 0), (1, 17), (3, 0), (1, 16), (1, 0)), known=False),
    AttentionCase(layout=((1030, 1), (5, 33), (1, 200)), heads=1, known=False),
    *(AttentionCase(layout=((1, 3), (1, 31), (2, 5)), head_dim=dim, heads=1) for dim in (32, 64, 80, 128)),
    *(
        AttentionCase(layout=((1, tile - 1), (1, tile), (1, tile + 1)), heads=1, known=known)
        for tile in (16, 64)
        for known in (True, False)
    ),
)


def _operands(case: AttentionCase, dtype: torch.dtype) -> Operands:
    normal = normals(case.seed, dtype)
    shape = (case.tokens, case.heads, case.head_dim)
    return Operands(
        leaves={"qkv": normal(case.tokens, 3, *shape[1:])},
        upstream={"output": normal(*shape)},
        fixed={"cu_seqlens": cu_seqlens_from_layout(case.layout)},
    )


def _forward(case: AttentionCase, leaves: Named, fixed: Named, backend: str) -> Named:
    longest = max(case.lengths, default=0) + case.slack
    layout = case.layout if case.known else None
    return {
        "output": varlen_attention(
            leaves["qkv"], fixed["cu_seqlens"], longest, layout=layout, scale=case.scale, backend=backend
        )
    }


def _exact(case: AttentionCase, leaves: Named, fixed: Named) -> Named:
    return _forward(case, leaves, fixed, "reference")


def _native(case: AttentionCase, leaves: Named, fixed: Named) -> Named:
    """The formula in the working dtype, sequence by sequence."""
    qkv: Tensor = leaves["qkv"]
    scale = qkv.shape[-1] ** -0.5 if case.scale is None else case.scale
    outputs = [qkv[:0, 0]]
    for sequence in qkv.split(case.lengths):
        q, k, v = sequence.permute(1, 2, 0, 3)
        outputs.append((torch.softmax(q @ k.mT * scale, -1) @ v).transpose(0, 1))
    return {"output": torch.cat(outputs)}


ATTENTION = Operation(
    name="attention",
    backends=BACKENDS,
    cases=_cases,
    edges=_EDGES,
    smooth=AttentionCase(layout=((1, 2), (1, 3)), heads=1, known=True),
    busy=AttentionCase(layout=((20, 10), (2, 100)), heads=4, head_dim=64),
    operands=_operands,
    forward=_forward,
    exact=_exact,
    native=_native,
    # Float32, length 1: 1.7e-7 in the gradient, where the formula written out is exact.
    library=frozenset({"sdpa", "xformers", "torch_varlen"}),
)
