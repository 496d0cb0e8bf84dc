"""Least work of each op: FLOPs that count (a multiply-add is two) and bytes if every needed tensor moves once.

Sizes are in elements of ``size`` bytes. A phase is a tuple of parts, whose times add up: short and long sequences of
one launch are bound by different things.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernels.bench.records import Floors
from kernels.launch import Work
from kernels.varlen import Layout

# The backward recomputes the scores: five products against two.
_ATTENTION_BACKWARD = 2.5
# Bytes of a weight gradient, kept in float32 until it is reduced.
_WIDE = 4


def with_both(forward: tuple[Work, ...], backward: tuple[Work, ...]) -> Floors:
    """The three phases, of which the last is the first two together."""
    return {"forward": forward, "backward": backward, "both": forward + backward}


def attention(layout: Layout, heads: int, head_dim: int, size: int) -> Floors:
    """q, k, v, out forward; q, k, v, dout, dq, dk, dv backward; one part per run of equal lengths."""
    runs = [(count, length) for count, length in layout if count * length]
    rows = [count * length * heads * head_dim * size for count, length in runs]
    flops = [4.0 * count * length * length * heads * head_dim for count, length in runs]
    return with_both(
        tuple(Work(flops=f, bytes=4 * r) for f, r in zip(flops, rows, strict=True)),
        tuple(Work(flops=_ATTENTION_BACKWARD * f, bytes=7 * r) for f, r in zip(flops, rows, strict=True)),
    )


def moae(tokens: int, width: int, num_experts: int, hidden: int, top_k: int, size: int) -> Floors:
    """Chosen experts alone, without router: x, out and pre-activations forward; these and their gradients backward."""
    flops = 4.0 * tokens * top_k * width * hidden
    weights = 2 * num_experts * width * hidden
    row, kept = width * size, top_k * hidden * size
    forward = Work(flops=flops, bytes=tokens * (2 * row + kept) + weights * size)
    backward = Work(flops=2 * flops, bytes=tokens * (3 * row + 2 * kept) + weights * (size + _WIDE))
    return with_both((forward,), (backward,))


def patch(tokens: int, values: int, width: int, size: int) -> Floors:
    """``values`` uint8 pixels per token, out and weight; the backward is the weight gradient alone."""
    flops = 2.0 * tokens * values * width
    moved = tokens * (values + width * size) + values * width * size
    return with_both((Work(flops=flops, bytes=moved),), (Work(flops=flops, bytes=moved),))


def reconstruction(tokens: int, pixels: int, values: int, width: int, size: int) -> Floors:
    """hidden, ``pixels`` uint8 values and the residual forward; residual, hidden and its gradient backward."""
    flops = 2.0 * tokens * values * width
    weight = values * width * size
    forward = Work(flops=flops, bytes=tokens * (width * size + pixels + values * size) + weight)
    backward = Work(flops=2 * flops, bytes=tokens * (values + 2 * width) * size + 2 * weight)
    return with_both((forward,), (backward,))


def total(parts: tuple[Work, ...]) -> Work:
    """FLOPs and bytes of all parts."""
    return Work(flops=sum(part.flops for part in parts), bytes=sum(part.bytes for part in parts))


def roofline_seconds(parts: tuple[Work, ...], ceiling: Mapping[str, float]) -> float:
    """Least time of the parts at ``ceiling``'s ``flops`` and ``bytes`` per second."""
    return sum(max(part.flops / ceiling["flops"], part.bytes / ceiling["bytes"]) for part in parts)
